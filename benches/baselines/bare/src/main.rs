//! Baseline: the AWS SDK in a handler that reads one object and writes it to another key.
//!
//! The SDK has its default configuration: credentials chain, system root certificates, checksums.
//! Only TLS is the same as in save-draft, rustls with ring.

use std::env;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let sdk_config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .load()
        .await;
    // The store of the benches has no host name for each bucket.
    let s3_config = Builder::from(&sdk_config)
        .force_path_style(env::var_os("AWS_ENDPOINT_URL_S3").is_some())
        .build();
    let client = Client::from_conf(s3_config);

    let bucket = env::var("DRAFT_BUCKET")?;
    let source_key = env::var("SOURCE_KEY")?;
    let target_key = env::var("TARGET_KEY")?;
    let handler = async |_: LambdaEvent<Value>| {
        copy(&client, &bucket, &source_key, &target_key).await?;
        Ok::<_, Error>(json!({"statusCode": 200}))
    };
    run(service_fn(handler)).await
}

async fn copy(client: &Client, bucket: &str, from: &str, to: &str) -> Result<(), Error> {
    let object = client.get_object().bucket(bucket).key(from).send().await?;
    let bytes = object.body.collect().await?.into_bytes();
    let request = client.put_object().bucket(bucket).key(to);
    request.body(ByteStream::from(bytes)).send().await?;
    Ok(())
}
