//! S3: lists, reads, copies, writes and deletes objects. Its errors name the permission or the option that is missing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_types::SdkConfig;
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use save_draft::error::chain;
use save_draft::s3::check_complete;

use crate::error::{Error, Result};
use crate::output::printable;

/// Number of requests that a command makes at the same time.
pub const CONCURRENCY: usize = 32;

/// Time within which a response must begin, as for the AWS CLI.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Number of attempts to read an object from beginning to end.
const MAX_READ_ATTEMPTS: u32 = 4;

/// Maximum number of keys in one `DeleteObjects` (Amazon S3 API Reference).
const MAX_DELETED_KEYS: usize = 1000;

/// One of the two buckets, which may be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// The bucket of the drafts.
    Drafts,
    /// The bucket of the versions.
    Saved,
}

/// The buckets of drafts and versions.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    draft_bucket: String,
    saved_bucket: String,
    endpoint: Option<String>,
    credentials: Option<SharedCredentialsProvider>,
}

/// An object, as in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// `ETag` without quotes.
    pub etag: String,
    /// To the second.
    pub last_modified: Timestamp,
}

/// An object with its headers.
#[derive(Clone, Debug)]
pub struct Head {
    pub object: Object,
    pub content_type: Option<String>,
    /// User-defined metadata.
    pub metadata: HashMap<String, String>,
}

/// A version of an object, or a delete marker, in a bucket with versioning.
#[derive(Clone, Debug)]
pub struct ObjectVersion {
    pub object: Object,
    pub version_id: String,
    pub is_latest: bool,
    pub is_delete_marker: bool,
}

/// The time at which credentials expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsEnd {
    Never,
    At(Timestamp),
    /// They are temporary, and came without their end.
    Unknown,
}

/// A request, for its errors.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Name in the API.
    pub operation: &'static str,
    /// The permissions that it needs, for people.
    pub permission: &'static str,
    pub bucket: &'a str,
    /// Key or prefix.
    pub key: &'a str,
}

impl Store {
    /// Connects with the region, the profile, the credentials and the endpoint of the environment, as the AWS CLI
    /// does. `endpoint_url` has precedence.
    pub async fn connect(
        draft_bucket: String,
        saved_bucket: String,
        endpoint_url: Option<String>,
    ) -> Result<Self> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client())
            .timeout_config(TimeoutConfig::builder().read_timeout(READ_TIMEOUT).build());
        if let Some(url) = &endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let sdk = loader.load().await;
        let endpoint = endpoint_url
            .or_else(|| endpoint_of_s3(&sdk))
            .filter(|url| !url.is_empty())
            .or_else(|| sdk.endpoint_url().map(str::to_owned));
        let mut config = aws_sdk_s3::config::Builder::from(&sdk)
            // Stores other than S3 have no host name for each bucket.
            .force_path_style(endpoint.is_some());
        config.set_endpoint_url(endpoint.clone());
        if sdk.region().is_none() {
            if endpoint.is_none() {
                return Err(Error::new("no AWS region is set")
                    .advise("Set AWS_REGION, or a region in the profile that AWS_PROFILE names."));
            }
            config = config.region(Region::from_static("us-east-1"));
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            draft_bucket,
            saved_bucket,
            endpoint,
            credentials: sdk.credentials_provider(),
        })
    }

    /// Returns the client, for requests that only one command makes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the name of a bucket.
    pub fn name(&self, bucket: Bucket) -> &str {
        match bucket {
            Bucket::Drafts => &self.draft_bucket,
            Bucket::Saved => &self.saved_bucket,
        }
    }

    /// Returns the URL of an object for people, like `s3://bucket/key`.
    pub fn url(&self, bucket: Bucket, key: &str) -> String {
        format!("s3://{}/{}", self.name(bucket), printable(key))
    }

    /// Starts to list the objects whose keys begin with `prefix`, in the order of their keys.
    pub fn pages(&self, bucket: Bucket, prefix: &str) -> Pages<'_> {
        Pages {
            store: self,
            bucket,
            prefix: prefix.to_owned(),
            next: Next::First,
        }
    }

    /// Lists the folders directly below `prefix`: the parts of keys up to the next `/`.
    pub async fn folders(&self, bucket: Bucket, prefix: &str) -> Result<Vec<String>> {
        let request = self.list_request(bucket, prefix);
        let list = self.client.list_objects_v2().bucket(request.bucket);
        let list = list.prefix(prefix).delimiter("/");
        let mut pages = list
            .encoding_type(EncodingType::Url)
            .into_paginator()
            .send();
        let mut folders = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed(&request, &error))?;
            check_complete(&page).map_err(|problem| cut_off(&request, problem))?;
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            let prefixes = page.common_prefixes().iter();
            for folder in prefixes.filter_map(|prefix| prefix.prefix()) {
                let folder = decode_key(folder, is_encoded);
                let name = folder.strip_prefix(prefix).unwrap_or(&folder);
                folders.push(name.trim_end_matches('/').to_owned());
            }
        }
        Ok(folders)
    }

    /// Reads the headers of an object, or returns `None` if it does not exist.
    pub async fn head(&self, bucket: Bucket, key: &str) -> Result<Option<Head>> {
        let request = Request {
            operation: "HeadObject",
            permission: "s3:GetObject",
            bucket: self.name(bucket),
            key,
        };
        let head = self.client.head_object().bucket(request.bucket).key(key);
        match head.send().await {
            Ok(output) => {
                let object = object(
                    key,
                    output.content_length(),
                    output.e_tag(),
                    output.last_modified(),
                );
                Ok(Some(Head {
                    object: object.ok_or_else(|| incomplete(&request))?,
                    content_type: output.content_type().map(str::to_owned),
                    metadata: output.metadata.unwrap_or_default(),
                }))
            }
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.failed(&request, &error)),
        }
    }

    /// Starts to read an object, or returns `None` if it does not exist.
    pub async fn read(&self, bucket: Bucket, key: &str) -> Result<Option<Reader<'_>>> {
        let Some(output) = self.get(bucket, key, None).await? else {
            return Ok(None);
        };
        let object = object(
            key,
            output.content_length(),
            output.e_tag(),
            output.last_modified(),
        );
        let request = self.get_request(bucket, key);
        Ok(Some(Reader {
            store: self,
            bucket,
            head: Head {
                object: object.ok_or_else(|| incomplete(&request))?,
                content_type: output.content_type().map(str::to_owned),
                metadata: output.metadata.unwrap_or_default(),
            },
            body: output.body,
            position: 0,
            attempt: 1,
        }))
    }

    /// Reads an object into memory, or returns `None` if it does not exist.
    pub async fn read_all(&self, bucket: Bucket, key: &str) -> Result<Option<(Head, Vec<u8>)>> {
        let Some(mut reader) = self.read(bucket, key).await? else {
            return Ok(None);
        };
        let size = usize::try_from(reader.head.object.size);
        let size = size.map_err(|_| Error::new(format!("{key} does not fit into memory")))?;
        let mut bytes = Vec::with_capacity(size);
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some((reader.head, bytes)))
    }

    fn get_request<'a>(&'a self, bucket: Bucket, key: &'a str) -> Request<'a> {
        Request {
            operation: "GetObject",
            permission: "s3:GetObject",
            bucket: self.name(bucket),
            key,
        }
    }

    fn list_request<'a>(&'a self, bucket: Bucket, prefix: &'a str) -> Request<'a> {
        Request {
            operation: "ListObjectsV2",
            permission: "s3:ListBucket",
            bucket: self.name(bucket),
            key: prefix,
        }
    }

    /// Gets an object, or the rest of it from a position on if it still has this `ETag`.
    async fn get(
        &self,
        bucket: Bucket,
        key: &str,
        rest: Option<(u64, &str)>,
    ) -> Result<Option<GetObjectOutput>> {
        let request = self.get_request(bucket, key);
        let mut get = self.client.get_object().bucket(request.bucket).key(key);
        if let Some((position, etag)) = rest {
            get = get.range(format!("bytes={position}-"));
            get = get.if_match(format!("\"{etag}\""));
        }
        match get.send().await {
            Ok(output) => Ok(Some(output)),
            Err(error) if status(&error) == Some(404) && error.code() != Some("NoSuchBucket") => {
                Ok(None)
            }
            Err(error) if status(&error) == Some(412) => {
                let url = self.url(bucket, key);
                Err(Error::new(format!("{url} changed while it was read")).advise("Run it again."))
            }
            Err(error) => Err(self.failed(&request, &error)),
        }
    }

    /// Returns a link from which anyone can read an object. Makes no request.
    pub async fn presigned(
        &self,
        bucket: Bucket,
        key: &str,
        config: PresigningConfig,
    ) -> Result<String> {
        let request = self.get_request(bucket, key);
        let get = self.client.get_object().bucket(request.bucket).key(key);
        let presigned = get.presigned(config).await;
        let presigned = presigned.map_err(|error| self.failed(&request, &error))?;
        Ok(presigned.uri().to_owned())
    }

    /// Returns the time at which the credentials, and with them links, expire.
    pub async fn credentials_end(&self) -> Result<CredentialsEnd> {
        let Some(credentials) = &self.credentials else {
            return Ok(CredentialsEnd::Never);
        };
        let credentials = credentials.provide_credentials().await;
        let credentials = credentials.map_err(|error| no_credentials(&error))?;
        let end = credentials.expiry().map(Timestamp::try_from);
        Ok(match (end, credentials.session_token()) {
            (Some(Ok(end)), _) => CredentialsEnd::At(end),
            (_, Some(_)) => CredentialsEnd::Unknown,
            (_, None) => CredentialsEnd::Never,
        })
    }

    /// Deletes objects by key. In a bucket with versioning, each gets a delete marker.
    pub async fn delete(&self, bucket: Bucket, keys: &[String]) -> Result<()> {
        for keys in keys.chunks(MAX_DELETED_KEYS) {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build());
            self.delete_objects(bucket, objects).await?;
        }
        Ok(())
    }

    /// Deletes versions of objects, or delete markers, for good: keys and version ids.
    pub async fn delete_versions(
        &self,
        bucket: Bucket,
        versions: &[(String, String)],
    ) -> Result<()> {
        for versions in versions.chunks(MAX_DELETED_KEYS) {
            let objects = versions.iter().map(|(key, version_id)| {
                let object = ObjectIdentifier::builder().key(key);
                object.version_id(version_id).build()
            });
            self.delete_objects(bucket, objects).await?;
        }
        Ok(())
    }

    async fn delete_objects<E: StdError + Send + Sync + 'static>(
        &self,
        bucket: Bucket,
        objects: impl Iterator<Item = std::result::Result<ObjectIdentifier, E>>,
    ) -> Result<()> {
        let mut request = Request {
            operation: "DeleteObjects",
            permission: "s3:DeleteObject",
            bucket: self.name(bucket),
            key: "",
        };
        let objects: Vec<_> = objects
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::new(chain(&error)))?;
        if objects.iter().any(|object| object.version_id().is_some()) {
            request.permission = "s3:DeleteObjectVersion";
        }
        let first_key = objects.first().map(|object| object.key().to_owned());
        let first_key = first_key.unwrap_or_default();
        request.key = &first_key;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true);
        let delete = delete.build().map_err(|error| Error::new(chain(&error)))?;
        let deleted = self
            .client
            .delete_objects()
            .bucket(request.bucket)
            .delete(delete)
            .send()
            .await
            .map_err(|error| self.failed(&request, &error))?;
        let Some(failure) = deleted.errors().first() else {
            return Ok(());
        };
        let key = failure.key().unwrap_or_default();
        let url = self.url(bucket, key);
        Err(if failure.code() == Some("AccessDenied") {
            denied(&Request { key, ..request }, failure.message())
        } else {
            let message = failure.message().or(failure.code());
            let message = message.unwrap_or("without a reason");
            Error::new(format!("S3 did not delete {url}: {message}"))
        })
    }

    /// Lists those versions and delete markers of the objects whose keys begin with `prefix` for which `is_wanted`
    /// returns true; those of one key from the newest to the oldest.
    pub async fn object_versions(
        &self,
        bucket: Bucket,
        prefix: &str,
        is_wanted: impl Fn(&ObjectVersion) -> bool,
    ) -> Result<Vec<ObjectVersion>> {
        let request = Request {
            operation: "ListObjectVersions",
            permission: "s3:ListBucketVersions",
            bucket: self.name(bucket),
            key: prefix,
        };
        let mut versions = Vec::new();
        let (mut key_marker, mut version_id_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(request.bucket)
                .prefix(prefix)
                .encoding_type(EncodingType::Url)
                .set_key_marker(key_marker.take())
                .set_version_id_marker(version_id_marker.take())
                .send()
                .await
                .map_err(|error| self.failed(&request, &error))?;
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            for version in page.versions() {
                let key = version.key().map(|key| decode_key(key, is_encoded));
                let object = object(
                    &key.unwrap_or_default(),
                    version.size(),
                    version.e_tag(),
                    version.last_modified(),
                );
                versions.push(ObjectVersion {
                    object: object.ok_or_else(|| incomplete(&request))?,
                    version_id: version.version_id().unwrap_or("null").to_owned(),
                    is_latest: version.is_latest() == Some(true),
                    is_delete_marker: false,
                });
            }
            for marker in page.delete_markers() {
                let key = marker.key().map(|key| decode_key(key, is_encoded));
                let object = object(
                    &key.unwrap_or_default(),
                    Some(0),
                    Some(""),
                    marker.last_modified(),
                );
                versions.push(ObjectVersion {
                    object: object.ok_or_else(|| incomplete(&request))?,
                    version_id: marker.version_id().unwrap_or("null").to_owned(),
                    is_latest: marker.is_latest() == Some(true),
                    is_delete_marker: true,
                });
            }
            versions.retain(&is_wanted);
            if !page.is_truncated().ok_or_else(|| incomplete(&request))? {
                break;
            }
            let next_key = page.next_key_marker();
            key_marker = next_key.map(|key| decode_key(key, is_encoded).into_owned());
            version_id_marker = page.next_version_id_marker().map(str::to_owned);
            if key_marker.is_none() {
                return Err(incomplete(&request));
            }
        }
        // A page has the versions and the markers apart.
        versions.sort_by(|a, b| {
            let by_key = a.object.key.cmp(&b.object.key);
            by_key.then(b.object.last_modified.cmp(&a.object.last_modified))
        });
        Ok(versions)
    }

    /// Describes a failed request: what is missing, and what to do.
    pub fn failed<E>(&self, request: &Request<'_>, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let Request {
            operation, bucket, ..
        } = *request;
        let url = request.url();
        let SdkError::ServiceError(_) = error else {
            return self.not_sent(&url, error);
        };
        let status = status(error).unwrap_or_default();
        let code = error.code().unwrap_or_default();
        let message = error.message().unwrap_or("no reason given");
        let region = error.raw_response().and_then(|response| {
            let region = response.headers().get("x-amz-bucket-region")?;
            Some(region.to_owned())
        });
        match (status, code) {
            (
                _,
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired",
            ) => Error::new(format!("S3 refuses the credentials ({code}): {message}")).advise(
                "Sign in again, or check AWS_PROFILE and the AWS_ACCESS_KEY_ID of this shell.",
            ),
            (_, "RequestTimeTooSkewed") => {
                Error::new(format!("S3 refuses the time of this machine: {message}"))
                    .advise("Set the clock.")
            }
            (_, "NoSuchBucket") => Error::new(format!("the bucket {bucket} does not exist"))
                .advise(
                    "Check --bucket (DRAFT_BUCKET), --saved-bucket (SAVED_BUCKET) and the account.",
                ),
            (301, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed") => {
                let error = Error::new(format!("the bucket {bucket} is in another region"));
                error.advise(match region {
                    Some(region) => format!("Set AWS_REGION={region}."),
                    None => "Set AWS_REGION to the region of the bucket.".to_owned(),
                })
            }
            (403, _) => denied(request, error.message()),
            (_, "SlowDown") | (500 | 503, _) => Error::new(format!(
                "S3 could not answer {operation} of {url}: {message}"
            ))
            .advise("Run the command again in a while."),
            (405 | 501, _) => Error::new(format!(
                "the store does not support {operation} of {url}: {message}"
            )),
            _ => {
                let request_id = error.request_id().unwrap_or("unknown");
                Error::new(format!(
                    "{operation} of {url} failed with {status} {code}: {message} (request id {request_id})"
                ))
            }
        }
    }

    fn not_sent(&self, url: &str, error: &(impl StdError + 'static)) -> Error {
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = next {
            if cause.is::<CredentialsError>() {
                return Error::new(format!("there are no AWS credentials: {}", chain(cause)))
                    .advise(
                        "Set AWS_PROFILE, sign in with `aws sso login`, or run `aws configure`.",
                    );
            }
            next = cause.source();
        }
        let (name, advice) = match &self.endpoint {
            Some(endpoint) => (
                endpoint.as_str(),
                "Check --endpoint-url (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL), and that the store runs.",
            ),
            None => (
                "S3",
                "Check the network, the proxy (HTTPS_PROXY) and AWS_REGION.",
            ),
        };
        Error::new(format!("cannot reach {name} for {url}: {}", chain(error))).advise(advice)
    }
}

impl Request<'_> {
    /// Returns the URL of the object, or that of the bucket if there is no key.
    fn url(&self) -> String {
        if self.key.is_empty() {
            format!("s3://{}", self.bucket)
        } else {
            format!("s3://{}/{}", self.bucket, self.key)
        }
    }
}

/// The pages of a listing.
pub struct Pages<'a> {
    store: &'a Store,
    bucket: Bucket,
    prefix: String,
    next: Next,
}

enum Next {
    First,
    Token(String),
    End,
}

impl Pages<'_> {
    /// Returns the next page, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Object>>> {
        let token = match std::mem::replace(&mut self.next, Next::End) {
            Next::First => None,
            Next::Token(token) => Some(token),
            Next::End => return Ok(None),
        };
        let request = self.store.list_request(self.bucket, &self.prefix);
        let page = self
            .store
            .client
            .list_objects_v2()
            .bucket(request.bucket)
            .prefix(&self.prefix)
            // XML cannot express all characters of a key.
            .encoding_type(EncodingType::Url)
            .set_continuation_token(token)
            .send()
            .await
            .map_err(|error| self.store.failed(&request, &error))?;
        let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
        let objects = page.contents().iter().map(|listed| {
            let key = listed.key().map(|key| decode_key(key, is_encoded));
            object(
                &key.unwrap_or_default(),
                listed.size(),
                listed.e_tag(),
                listed.last_modified(),
            )
        });
        let objects: Option<Vec<_>> = objects.collect();
        let objects = objects.ok_or_else(|| incomplete(&request))?;
        if check_complete(&page).map_err(|problem| cut_off(&request, problem))? {
            let token = page.next_continuation_token();
            let token = token.ok_or_else(|| incomplete(&request))?;
            self.next = Next::Token(token.to_owned());
        }
        Ok(Some(objects))
    }
}

/// An object that is being read.
pub struct Reader<'a> {
    store: &'a Store,
    bucket: Bucket,
    /// The headers of the object.
    pub head: Head,
    body: ByteStream,
    /// Number of bytes that were read.
    position: u64,
    attempt: u32,
}

impl Reader<'_> {
    /// Returns the next bytes, or `None` after the last. A transfer that stops goes on with a new request.
    ///
    /// # Errors
    ///
    /// Returns an error, which counts as a found problem, if the bytes do not have the checksum that S3 stores.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let problem = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.position += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                None if self.position == self.head.object.size => return Ok(None),
                None => "the body ended early".to_owned(),
                Some(Err(error)) if is_checksum_mismatch(&error) => {
                    let url = self.store.url(self.bucket, &self.head.object.key);
                    return Err(Error::problem(format!(
                        "{url} is corrupt: {}",
                        chain(&error)
                    )));
                }
                Some(Err(error)) => chain(&error),
            };
            let Object { key, etag, .. } = &self.head.object;
            let url = self.store.url(self.bucket, key);
            if self.attempt == MAX_READ_ATTEMPTS || self.position >= self.head.object.size {
                return Err(Error::new(format!(
                    "the transfer of {url} failed: {problem}"
                )));
            }
            let rest = self
                .store
                .get(self.bucket, key, Some((self.position, etag)));
            let rest = rest.await?;
            let gone = || Error::new(format!("{url} was deleted while it was read"));
            self.body = rest.ok_or_else(gone)?.body;
            self.attempt += 1;
        }
    }
}

/// Returns whether the body of a response does not have its checksum.
fn is_checksum_mismatch(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<aws_smithy_checksums::body::validate::Error>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Creates the HTTP client: TLS with the roots of the system, and the proxy of the environment.
fn http_client() -> aws_sdk_s3::config::SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build()
    })
}

fn object(
    key: &str,
    size: Option<i64>,
    etag: Option<&str>,
    last_modified: Option<&DateTime>,
) -> Option<Object> {
    Some(Object {
        key: (!key.is_empty()).then(|| key.to_owned())?,
        size: size?.try_into().ok()?,
        etag: etag?.trim_matches('"').to_owned(),
        last_modified: Timestamp::from_second(last_modified?.secs()).ok()?,
    })
}

fn cut_off(request: &Request<'_>, problem: &str) -> Error {
    Error::new(format!("{problem} ({})", request.url())).advise("Run the command again.")
}

fn incomplete(request: &Request<'_>) -> Error {
    let (operation, url) = (request.operation, request.url());
    Error::new(format!(
        "the response to {operation} of {url} lacks a field that S3 always sends"
    ))
}

fn no_credentials(cause: &(dyn StdError + 'static)) -> Error {
    Error::new(format!("there are no AWS credentials: {}", chain(cause)))
        .advise("Set AWS_PROFILE, sign in with `aws sso login`, or run `aws configure`.")
}

fn denied(request: &Request<'_>, message: Option<&str>) -> Error {
    let (operation, url) = (request.operation, request.url());
    // S3 names the user and the action, or says no more than "Access Denied".
    let reason = message.filter(|message| message.contains("not authorized"));
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    Error::new(format!("access denied to {operation} of {url}{reason}")).advise(format!(
        "The credentials need {} there, and kms:Decrypt if the bucket is encrypted with a KMS key.",
        request.permission
    ))
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    let response = error.raw_response()?;
    Some(response.status().as_u16())
}

/// Returns the endpoint that the environment or the profile has for S3 alone ("Service-specific endpoints", AWS SDKs
/// and Tools Reference Guide).
fn endpoint_of_s3(sdk: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url");
    sdk.service_config()?.load_config(key.build().ok()?)
}

fn decode_key(key: &str, is_encoded: bool) -> Cow<'_, str> {
    if !is_encoded {
        return key.into();
    }
    // A space is encoded as `+`.
    let key = key.replace('+', " ");
    percent_decode_str(&key)
        .decode_utf8_lossy()
        .into_owned()
        .into()
}
