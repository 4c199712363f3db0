//! The yardstick: the SDK in a bare handler, which reads one object and writes it again.
//!
//! Everything is the SDK's default, the credentials chain, the system's root certificates and the
//! checksums included. Without the feature `defaults`, only the crates are cut as ours are: no
//! SSO in `aws-config`, and TLS by rustls on ring.

use aws_config::BehaviorVersion;
use aws_sdk_s3::{Client, config::Builder, primitives::ByteStream};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};
use std::env;

/// Runs until the Runtime API goes away.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Error> {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    #[cfg(not(feature = "defaults"))]
    let loader = {
        use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
        let tls = Provider::Rustls(CryptoMode::Ring);
        let builder = aws_smithy_http_client::Builder::new().tls_provider(tls);
        loader.http_client(builder.build_https())
    };
    let sdk = loader.load().await;
    // The S3 of the bench is reached by path; S3 itself by the bucket's host name.
    let path_style = env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    let s3 = Client::from_conf(Builder::from(&sdk).force_path_style(path_style).build());

    let bucket = env::var("DRAFT_BUCKET")?;
    let (source, target) = (env::var("BARE_GET")?, env::var("BARE_PUT")?);
    let (s3, bucket, source, target) = (&s3, &bucket, &source, &target);
    run(service_fn(move |_: LambdaEvent<Value>| async move {
        let object = s3.get_object().bucket(bucket).key(source).send().await?;
        let bytes = object.body.collect().await?.into_bytes();
        let body = ByteStream::from(bytes);
        s3.put_object()
            .bucket(bucket)
            .key(target)
            .body(body)
            .send()
            .await?;
        Ok::<_, Error>(json!({"statusCode": 200}))
    }))
    .await
}
