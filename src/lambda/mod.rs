//! One invocation: what came in, how long there is, and who answers it.
//!
//! Everything comes through `lambda_http`: requests of API Gateway, of load balancers
//! and of function URLs as HTTP, all else over `pass_through`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::lambda_runtime::{LambdaEvent, Service};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::tower::{ServiceExt as _, service_fn};
use lambda_http::{Adapter, Body, BoxFuture, IntoResponse, Request, RequestExt as _, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::config::Config;
use crate::events::{self, Failure, Source};
use crate::http;
use crate::save::Saver;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// What is kept back of an invocation's time to answer in.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// The longest path, in bytes, that is looked at; `http::Uri` stops at 65,534.
const MAX_PATH_BYTES: usize = 8192;

/// The longest name of a stage, in bytes: as long as API Gateway lets one be
/// (`CreateStage`, API Gateway REST API Reference).
const MAX_STAGE_BYTES: usize = 128;

/// The function, ready to serve.
#[derive(Debug)]
pub struct Function {
    saver: Saver,
    source: Source,
    telemetry: Telemetry,
    cors_origin: Option<String>,
}

impl Function {
    /// The function as `config` says, over `store`.
    #[must_use]
    pub fn new(config: &Config, store: Store, telemetry: Telemetry) -> Self {
        Self {
            saver: Saver::new(store, config),
            source: Source {
                bucket: config.draft_bucket.clone(),
                key: config.draft_key.clone(),
                hosts: config.draft_url_hosts.clone(),
            },
            telemetry,
            cors_origin: config.cors_origin.clone(),
        }
    }

    /// The service that the Lambda runtime calls: takes the payload of an invocation, and
    /// gives the response in the form that its trigger expects, or the error of a failed
    /// invocation.
    pub fn into_service(
        self,
    ) -> impl Service<
        LambdaEvent<Payload>,
        Response: Serialize + Send,
        Error = Failure,
        Future: Send,
    > + Clone
    + Send {
        let function = Arc::new(self);
        let handler = service_fn(move |request: Request| {
            let function = Arc::clone(&function);
            async move { function.handle(request).await.map(Answer) }
        });
        Adapter::from(handler).map_request(|event: LambdaEvent<Payload>| {
            LambdaEvent::new(event.payload.0, event.context)
        })
    }

    async fn handle(&self, request: Request) -> Result<Response<Body>, Failure> {
        let context = request.lambda_context();
        let deadline = deadline(context.deadline);
        let mut invocation = self.telemetry.begin(context.request_id);
        let (saver, source) = (&self.saver, &self.source);
        let response = if let (Some(RequestContext::PassThrough), Body::Text(payload)) =
            (request.request_context_ref(), request.body())
        {
            events::handle(payload, source, saver, deadline, &mut invocation)
                .await
                .map(|answer| Response::new(Body::Text(answer.to_string())))
        } else {
            let hosts = &source.hosts;
            let mut response =
                http::handle(&request, saver, hosts, deadline, &mut invocation).await;
            http::allow_origin(&mut response, self.cors_origin.as_deref());
            Ok(response)
        };
        self.telemetry.end(&invocation);
        response
    }
}

/// An answer as it is. `lambda_http` would look into one for its character set, for which
/// it brings the tables of all that there are.
struct Answer(Response<Body>);

impl IntoResponse for Answer {
    fn into_response(self) -> BoxFuture<'static, Response<Body>> {
        Box::pin(ready(self.0))
    }
}

/// The year 2000, in milliseconds since the epoch: no invocation ends before it.
const EARLIEST_END_MS: u64 = 946_684_800_000;

/// When a save has to be done whose invocation ends at `unix_ms`, in milliseconds since
/// the epoch, as the Runtime API tells it. (`cargo lambda watch` tells what is left.)
fn deadline(unix_ms: u64) -> Instant {
    let told = Duration::from_millis(unix_ms);
    let left = if unix_ms < EARLIEST_END_MS {
        told
    } else {
        let end = SystemTime::UNIX_EPOCH + told;
        end.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Instant::now() + left.saturating_sub(ANSWER_MARGIN)
}

/// The payload of an invocation.
///
/// `lambda_http` panics on a few things that a client, or who may invoke the function, can
/// send: a `Host` or a path that makes no URL, more headers than a `HeaderMap` holds, a body
/// that is flagged as base64 and is none. Others it takes for no HTTP: a header that is not
/// ASCII. They are taken out here, so that such a request gets its answer like any other.
#[derive(Debug)]
pub struct Payload(LambdaRequest);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Box::<RawValue>::deserialize(deserializer)?;
        let payload = payload.get();
        let request = bare(payload).and_then(|event| serde_json::from_str(&event).ok());
        let mut request = request.unwrap_or_else(|| LambdaRequest::PassThrough(payload.to_owned()));
        match &mut request {
            LambdaRequest::ApiGatewayV1(event) => {
                event.request_context.domain_name = None;
                tame_stage(&mut event.request_context.stage);
                tame_path(&mut event.path);
                tame_body(&mut event.is_base64_encoded, event.body.as_deref());
            }
            LambdaRequest::ApiGatewayV2(event) => {
                event.request_context.domain_name = None;
                tame_stage(&mut event.request_context.stage);
                tame_path(&mut event.raw_path);
                tame_body(&mut event.is_base64_encoded, event.body.as_deref());
            }
            LambdaRequest::Alb(event) => {
                tame_path(&mut event.path);
                tame_body(&mut event.is_base64_encoded, event.body.as_deref());
            }
            // As it came.
            LambdaRequest::PassThrough(event) => payload.clone_into(event),
            _ => {}
        }
        Ok(Self(request))
    }
}

/// What every HTTP event has, and nothing else.
const CONTEXT: &str = "requestContext";

/// Of all that a request has, a save looks at method, path and body, and never at these.
const UNUSED: [&str; 6] = [
    "cookies",
    "headers",
    "multiValueHeaders",
    "multiValueQueryStringParameters",
    "queryStringParameters",
    "rawQueryString",
];

/// An HTTP event without what is [`UNUSED`] of it; none for any other event.
fn bare(payload: &str) -> Option<String> {
    // Looked for first: large batches are not to be read once more.
    if !payload.contains(CONTEXT) {
        return None;
    }
    let mut event: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(payload).ok()?;
    event.get(CONTEXT)?;
    for field in UNUSED {
        event.remove(field);
    }
    serde_json::to_string(&event).ok()
}

/// A stage that API Gateway could not have is none.
fn tame_stage(stage: &mut Option<String>) {
    stage.take_if(|stage| stage.len() > MAX_STAGE_BYTES);
}

fn tame_path(path: &mut Option<String>) {
    let usable = path.take().filter(|path| path.len() <= MAX_PATH_BYTES);
    *path = usable.map(|path| {
        if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        }
    });
}

fn tame_body(is_base64: &mut bool, body: Option<&str>) {
    *is_base64 &= body.is_some_and(|body| BASE64_STANDARD.decode(body).is_ok());
}
