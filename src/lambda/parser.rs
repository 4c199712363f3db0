//! Parses trigger payloads into draft ids. Fields that do not affect the result are skipped without
//! building their values, so that memory does not depend on the input.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::config::Config;
use crate::draft::{DraftId, InvalidDraftId};
use crate::error::{BoxError, Error, redact_json_error};

/// A parsed event.
pub(super) enum ParsedEvent<'a> {
    /// A direct invocation.
    Direct(DirectRequest),
    /// An event of S3, EventBridge or SNS.
    Notification(EventContent<'a>),
    /// A batch of SQS.
    Batch(Vec<EventContent<'a>>),
}

/// The draft of a direct invocation.
pub(super) struct DirectRequest {
    /// The field that named the draft: `draft_url` or `draft_id`.
    pub field: &'static str,
    /// The value of the field.
    pub value: String,
    /// The id of the draft.
    pub id: DraftId,
}

/// The drafts in an event or message, and the records that are not saved.
pub(super) struct EventContent<'a> {
    config: &'a Config,
    /// The `messageId` of a message of SQS, or `None` if it cannot be read.
    pub message_id: Option<String>,
    /// Drafts to save, each once.
    pub drafts: BTreeMap<DraftId, Origin>,
    /// Records that do not require a save: the reason, for the log, and the key of the object.
    pub skipped: Vec<(&'static str, Option<String>)>,
    /// The first record that could not be parsed. Others are not kept: a payload of 6 MB may have
    /// millions of them.
    pub error: Option<Error>,
}

/// The reason to save a draft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Its document was written. It may have been deleted since.
    Object,
    /// The event names it.
    Request,
}

/// Maximum nesting of messages: SQS may deliver a message of SNS that contains a notification.
const MAX_ENVELOPES: u8 = 2;

/// Maximum number of records of one list: the largest batch of SQS ("Using Lambda with Amazon SQS",
/// AWS Lambda Developer Guide).
const MAX_RECORDS: usize = 10_000;

/// Reads those fields of the JSON object `text` that `T` declares. `null` counts as missing.
pub(super) fn read_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, BoxError> {
    // A derived implementation also accepts a list, with the values of the fields in order.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("the text is not a JSON object".into());
    }
    serde_json::from_slice(text).map_err(|error| redact_json_error(&error))
}

/// Returns the string in `value`, or `None` if it is missing, of another type, or not valid Unicode.
pub(super) fn as_string(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// Creates the error for an event, record or message that could not be parsed.
pub(super) fn invalid_event(cause: impl Into<BoxError>) -> Error {
    Error::invalid_request("The event is not one that this function knows", cause)
}

/// Creates the error for a `draft_url` that does not name a draft.
pub(super) fn invalid_draft_url(cause: impl Into<BoxError>) -> Error {
    Error::invalid_request("Invalid draft_url format", cause)
}

/// Reads the object in `value`; `names` lists the required fields, for the error.
fn object<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>, names: &str) -> Result<T, Error> {
    let object = value.and_then(|value| read_object(value.get().as_bytes()).ok());
    object.ok_or_else(|| invalid_event(format!("the event must have {names}")))
}

/// Reads the string in `value`; `name` is the name of the field, for the error.
fn string(value: Option<&RawValue>, name: &str) -> Result<String, Error> {
    as_string(value).ok_or_else(|| invalid_event(format!("{name} must be a string")))
}

/// The fields that tell events apart.
#[derive(Deserialize)]
struct Envelope<'a> {
    /// S3, SNS and SQS.
    #[serde(borrow, rename = "Records")]
    records: Option<&'a RawValue>,
    /// EventBridge.
    #[serde(rename = "detail-type")]
    detail_type: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    detail: Option<&'a RawValue>,
    /// SNS.
    #[serde(rename = "Message")]
    message: Option<&'a RawValue>,
    /// The test event of S3.
    #[serde(rename = "Event")]
    event: Option<&'a RawValue>,
    /// HTTP.
    #[serde(rename = "requestContext")]
    request_context: Option<&'a RawValue>,
    /// Direct invocations.
    draft_url: Option<&'a RawValue>,
    draft_id: Option<&'a RawValue>,
}

/// A record of S3, SNS or SQS.
#[derive(Default, Deserialize)]
struct Record<'a> {
    /// The service that the record is from.
    #[serde(borrow, rename = "eventSource", alias = "EventSource")]
    source: Option<&'a RawValue>,
    /// SNS.
    #[serde(rename = "Sns")]
    sns: Option<&'a RawValue>,
    /// SQS.
    #[serde(rename = "messageId")]
    message_id: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    /// S3.
    #[serde(rename = "eventName")]
    name: Option<&'a RawValue>,
    s3: Option<&'a RawValue>,
}

/// An object, in `s3` of a notification and in `detail` of EventBridge.
#[derive(Deserialize)]
struct Object {
    bucket: Bucket,
    object: Key,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

impl<'a> Envelope<'a> {
    /// Returns the records, each parsed on its own.
    fn records(&self) -> Result<Vec<Result<Record<'a>, Error>>, Error> {
        let list = self.records.map_or("[]", RawValue::get);
        // `IgnoredAny` takes no memory: the records are counted before they are kept.
        let count = serde_json::from_str::<Vec<IgnoredAny>>(list).map(|records| records.len());
        if !count.is_ok_and(|count| count <= MAX_RECORDS) {
            let problem = format!("Records must be a list of at most {MAX_RECORDS} records");
            return Err(invalid_event(problem));
        }
        let records: Vec<&RawValue> = serde_json::from_str(list).map_err(invalid_event)?;
        let records = records.into_iter().map(|record| record.get().as_bytes());
        Ok(records
            .map(|record| read_object(record).map_err(invalid_event))
            .collect())
    }
}

/// Parses the payload of an invocation.
///
/// # Errors
///
/// Returns `InvalidRequest` if the payload as a whole is not a known event. Errors of single records and
/// messages are part of the result.
pub(super) fn parse<'a>(payload: &str, config: &'a Config) -> Result<ParsedEvent<'a>, Error> {
    let envelope = read_object(payload.as_bytes()).map_err(invalid_event)?;
    if let Some(request) = direct_request(&envelope, config)? {
        return Ok(ParsedEvent::Direct(request));
    }
    let records = envelope.records()?;
    let is_sqs = |record: &Record<'_>| as_string(record.source).as_deref() == Some("aws:sqs");
    if records.iter().flatten().any(is_sqs) {
        let records = records.into_iter().map(Result::unwrap_or_default);
        let messages = records.map(|record| EventContent::of_message(&record, config));
        return Ok(ParsedEvent::Batch(messages.collect()));
    }
    let mut content = EventContent::new(None, config);
    content.read_notification(&envelope, 0)?;
    Ok(ParsedEvent::Notification(content))
}

/// Returns the draft of a direct invocation, or `None` for any other event.
fn direct_request(
    envelope: &Envelope<'_>,
    config: &Config,
) -> Result<Option<DirectRequest>, Error> {
    let is_service_event = envelope.records.is_some()
        || envelope.detail_type.is_some()
        || envelope.request_context.is_some();
    if is_service_event {
        return Ok(None);
    }
    let (field, value, id) = match (envelope.draft_url, envelope.draft_id) {
        (None, None) => return Ok(None),
        (url @ Some(_), None) => {
            let url = as_string(url).ok_or("draft_url must be a string");
            let url = url.map_err(invalid_draft_url)?;
            let id = DraftId::from_url(&url, &config.draft_url_hosts);
            ("draft_url", url, id.map_err(invalid_draft_url)?)
        }
        (None, id @ Some(_)) => {
            let invalid =
                |cause: BoxError| Error::invalid_request("Invalid draft_id format", cause);
            let text = as_string(id).ok_or("draft_id must be a string");
            let text = text.map_err(|cause| invalid(cause.into()))?;
            let id = text
                .parse()
                .map_err(|cause: InvalidDraftId| invalid(cause.into()))?;
            ("draft_id", text, id)
        }
        (Some(_), Some(_)) => {
            let detail = "Only one of draft_url and draft_id is allowed";
            return Err(Error::invalid_request(detail, "the event has both"));
        }
    };
    Ok(Some(DirectRequest { field, value, id }))
}

impl<'a> EventContent<'a> {
    fn new(message_id: Option<String>, config: &'a Config) -> Self {
        Self {
            config,
            message_id,
            drafts: BTreeMap::new(),
            skipped: Vec::new(),
            error: None,
        }
    }

    /// Parses a message of SQS.
    fn of_message(record: &Record<'_>, config: &'a Config) -> Self {
        let mut content = Self::new(as_string(record.message_id), config);
        let body = string(record.body, "the body of a message");
        let result = body.and_then(|body| content.read_text(&body, 0));
        content.error = content.error.or(result.err());
        content
    }

    /// Reads the text of a message of SQS or SNS.
    fn read_text(&mut self, text: &str, envelopes: u8) -> Result<(), Error> {
        let envelope = read_object(text.as_bytes()).map_err(invalid_event)?;
        match direct_request(&envelope, self.config)? {
            Some(request) => add_draft(&mut self.drafts, request.id, Origin::Request),
            None => self.read_notification(&envelope, envelopes)?,
        }
        Ok(())
    }

    /// Reads an event of S3, EventBridge or SNS; `envelopes` is the number of messages around it.
    fn read_notification(&mut self, envelope: &Envelope<'_>, envelopes: u8) -> Result<(), Error> {
        if envelopes > MAX_ENVELOPES {
            return Err(invalid_event("the messages are nested too deeply"));
        }
        if envelope.request_context.is_some() {
            return Err(invalid_event("the HTTP event has no valid method"));
        }
        if envelope.detail_type.is_some() {
            return self.read_event_bridge(envelope);
        }
        if envelope.message.is_some() {
            let message = string(envelope.message, "Message")?;
            return self.read_text(&message, envelopes + 1);
        }
        if envelope.event.is_some() {
            if string(envelope.event, "Event")? != "s3:TestEvent" {
                return Err(invalid_event("Event must be s3:TestEvent"));
            }
            let reason = "the event is the test event of S3";
            self.skipped.push((reason, None));
            return Ok(());
        }
        let records = envelope.records()?;
        if records.is_empty() {
            let problem = "the payload has none of the fields of a known event";
            return Err(invalid_event(problem));
        }
        for record in records {
            let result = record.and_then(|record| self.read_record(&record, envelopes));
            self.error = self.error.take().or(result.err());
        }
        Ok(())
    }

    /// Reads a record of S3 or SNS.
    fn read_record(&mut self, record: &Record<'_>, envelopes: u8) -> Result<(), Error> {
        let source = string(record.source, "eventSource")?;
        if source == "aws:sns" {
            let sns: Envelope<'_> = object(record.sns, "Sns.Message")?;
            return self.read_text(&string(sns.message, "Sns.Message")?, envelopes + 1);
        }
        // Other stores use names of their own, such as `minio:s3`.
        if !source.ends_with(":s3") {
            let problem = "eventSource must be aws:s3, aws:sns or aws:sqs";
            return Err(invalid_event(problem));
        }
        let s3: Object = object(record.s3, "s3.bucket.name and s3.object.key")?;
        let name = string(record.name, "eventName")?;
        // Keys are URL-encoded ("Event message structure", Amazon S3 User Guide).
        let key = s3.object.key.replace('+', " ");
        let key = percent_decode_str(&key).decode_utf8();
        let key = key.map_err(|_| invalid_event("s3.object.key must be URL-encoded UTF-8"))?;
        let is_created =
            name.starts_with("ObjectCreated:") || name.starts_with("s3:ObjectCreated:");
        self.read_object_event(is_created, &s3.bucket.name, &key);
        Ok(())
    }

    /// Reads an EventBridge event ("EventBridge event message structure", Amazon S3 User Guide, and custom
    /// events with a `draft_url` or `draft_id` in `detail`).
    fn read_event_bridge(&mut self, event: &Envelope<'_>) -> Result<(), Error> {
        if string(event.source, "source")? == "aws.s3" {
            // Here the key is not URL-encoded.
            let detail: Object = object(event.detail, "detail.bucket.name and detail.object.key")?;
            let is_created = string(event.detail_type, "detail-type")? == "Object Created";
            self.read_object_event(is_created, &detail.bucket.name, &detail.object.key);
            return Ok(());
        }
        let detail = object(event.detail, "an object in detail")?;
        let request = direct_request(&detail, self.config)?
            .ok_or_else(|| invalid_event("detail must have a draft_url or draft_id"))?;
        add_draft(&mut self.drafts, request.id, Origin::Request);
        Ok(())
    }

    /// Adds the draft whose document was created, or the reason to skip the object.
    fn read_object_event(&mut self, is_created: bool, bucket: &str, key: &str) {
        let reason = if !is_created {
            "the object was not created"
        } else if bucket != self.config.draft_bucket {
            "the object is in another bucket"
        } else if let Some(id) = self.config.draft_prefix.parse_document(key) {
            return add_draft(&mut self.drafts, id, Origin::Object);
        } else {
            "the object is not the document of a draft"
        };
        self.skipped.push((reason, Some(key.to_owned())));
    }
}

/// Adds a draft to `drafts`. One that is known keeps the greater origin.
pub(super) fn add_draft(drafts: &mut BTreeMap<DraftId, Origin>, id: DraftId, origin: Origin) {
    let known = drafts.entry(id).or_insert(origin);
    *known = origin.max(*known);
}
