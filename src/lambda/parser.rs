//! Parses trigger payloads into draft ids. Fields that do not affect the result are skipped.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::json::{as_string, read_fields, read_list};
use crate::config::RequestConfig;
use crate::draft::DraftId;
use crate::draft::keys::DraftPrefix;
use crate::error::{BoxError, Error, redact_json_error};

/// Parses events, and decides which objects are documents of drafts.
#[derive(Debug)]
pub(super) struct EventParser {
    bucket: String,
    prefix: DraftPrefix,
    allowed_hosts: Vec<String>,
}

/// A parsed event.
#[derive(Debug)]
pub(super) enum ParsedEvent {
    /// A direct invocation.
    Direct(DirectRequest),
    /// An event of S3, EventBridge or SNS.
    Notification(EventContent),
    /// A batch of SQS.
    Batch(Vec<Message>),
}

/// The draft of a direct invocation.
#[derive(Debug)]
pub(super) struct DirectRequest {
    /// The field that named the draft: `draft_url` or `draft_id`.
    pub field: &'static str,
    /// The value of the field.
    pub value: String,
    /// The id of the draft.
    pub id: DraftId,
}

/// A message of an SQS batch.
#[derive(Debug)]
pub(super) struct Message {
    /// The `messageId`, or `None` if it cannot be read.
    pub id: Option<String>,
    /// The content of the message.
    pub content: EventContent,
}

/// The drafts in an event or message, and the records that are not saved.
#[derive(Debug, Default)]
pub(super) struct EventContent {
    /// Drafts to save, each once.
    pub ids: BTreeSet<DraftId>,
    /// Records that do not require a save.
    pub skipped: Vec<SkippedRecord>,
    /// The first record that could not be parsed. Others are not kept: a payload of 6 MB may have
    /// millions of them.
    pub error: Option<Error>,
}

/// A record that does not require a save.
#[derive(Debug)]
pub(super) struct SkippedRecord {
    /// The reason, for the log.
    pub reason: &'static str,
    /// The key of the object, if the record has one.
    pub key: Option<String>,
}

/// Maximum nesting of messages: SQS may deliver a message of SNS that contains a notification.
const MAX_ENVELOPES: u8 = 2;

/// Maximum number of records of one list: the largest batch of SQS ("Using Lambda with Amazon SQS",
/// AWS Lambda Developer Guide).
const MAX_RECORDS: usize = 10_000;

/// Creates the error for an event, record or message that could not be parsed.
pub(super) fn invalid_event(cause: impl Into<BoxError>) -> Error {
    Error::invalid_request("The event is not one that this function knows", cause)
}

/// Reads the fields `names` of the JSON object `text`.
fn fields<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], Error> {
    read_fields(text.as_bytes(), names).map_err(|error| invalid_event(redact_json_error(&error)))
}

/// Reads the string in `value`; `name` is the name of the field for the error.
fn string(value: Option<&RawValue>, name: &str) -> Result<String, Error> {
    as_string(value).ok_or_else(|| invalid_event(format!("{name} must be a string")))
}

/// The fields that tell events apart.
struct Envelope<'a> {
    /// S3, SNS and SQS.
    records: Option<&'a RawValue>,
    /// EventBridge.
    detail_type: Option<&'a RawValue>,
    /// SNS messages that are delivered to SQS.
    message: Option<&'a RawValue>,
    /// The test event of S3.
    event: Option<&'a RawValue>,
    /// HTTP.
    request_context: Option<&'a RawValue>,
    /// Direct invocations.
    draft_url: Option<&'a RawValue>,
    draft_id: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let [
            records,
            detail_type,
            message,
            event,
            request_context,
            draft_url,
            draft_id,
        ] = fields(
            text,
            [
                "Records",
                "detail-type",
                "Message",
                "Event",
                "requestContext",
                "draft_url",
                "draft_id",
            ],
        )?;
        Ok(Self {
            records,
            detail_type,
            message,
            event,
            request_context,
            draft_url,
            draft_id,
        })
    }

    fn records(&self) -> Result<Vec<&'a RawValue>, Error> {
        let Some(records) = self.records else {
            return Ok(Vec::new());
        };
        read_list(records, MAX_RECORDS).map_err(|_| {
            invalid_event(format!(
                "Records must be a list of at most {MAX_RECORDS} records"
            ))
        })
    }
}

/// Returns the service that a record is from: `EventSource` for SNS, `eventSource` for others.
fn event_source(record: &RawValue) -> Result<String, Error> {
    let [source, sns_source] = fields(record.get(), ["eventSource", "EventSource"])?;
    string(source.or(sns_source), "eventSource")
}

fn is_sqs(record: &RawValue) -> bool {
    event_source(record).is_ok_and(|source| source == "aws:sqs")
}

impl EventParser {
    /// Creates a parser for the drafts in `config`.
    pub(super) fn new(config: RequestConfig) -> Self {
        Self {
            bucket: config.draft_bucket,
            prefix: config.draft_prefix,
            allowed_hosts: config.draft_url_hosts,
        }
    }

    /// Parses the payload of an invocation.
    ///
    /// # Errors
    ///
    /// Returns `InvalidRequest` if the payload as a whole is not a known event. Errors of single
    /// records and messages are part of the result.
    pub(super) fn parse(&self, payload: &str) -> Result<ParsedEvent, Error> {
        let envelope = Envelope::parse(payload)?;
        if let Some(request) = self.direct_request(&envelope) {
            return request.map(ParsedEvent::Direct);
        }
        let records = envelope.records()?;
        if records.iter().any(|record| is_sqs(record)) {
            let messages = records.into_iter().map(|record| self.message(record));
            return Ok(ParsedEvent::Batch(messages.collect()));
        }
        let content = self.notification(payload, &envelope, 0)?;
        Ok(ParsedEvent::Notification(content))
    }

    fn message(&self, record: &RawValue) -> Message {
        let [id, body] = fields(record.get(), ["messageId", "body"]).unwrap_or_default();
        let content = string(body, "the body of a message")
            .and_then(|body| self.content(&body, 0))
            .unwrap_or_else(EventContent::error);
        Message {
            id: as_string(id),
            content,
        }
    }

    /// Parses the text of a message of SQS or SNS.
    fn content(&self, text: &str, envelopes: u8) -> Result<EventContent, Error> {
        let envelope = Envelope::parse(text)?;
        match self.direct_request(&envelope) {
            Some(request) => Ok(EventContent::draft(request?.id)),
            None => self.notification(text, &envelope, envelopes),
        }
    }

    /// Parses an event of S3, EventBridge or SNS; `envelopes` is the number of messages around it.
    fn notification(
        &self,
        text: &str,
        envelope: &Envelope<'_>,
        envelopes: u8,
    ) -> Result<EventContent, Error> {
        if envelopes > MAX_ENVELOPES {
            return Err(invalid_event("the messages are nested too deeply"));
        }
        if envelope.request_context.is_some() {
            return Err(invalid_event("the HTTP event has no valid method"));
        }
        if envelope.detail_type.is_some() {
            return self.event_bridge(text);
        }
        if envelope.message.is_some() {
            let message = string(envelope.message, "Message")?;
            return self.content(&message, envelopes + 1);
        }
        if envelope.event.is_some() {
            return match string(envelope.event, "Event")?.as_str() {
                "s3:TestEvent" => Ok(EventContent::skipped(
                    "the event is the test event of S3",
                    None,
                )),
                _ => Err(invalid_event("Event must be s3:TestEvent")),
            };
        }
        let records = envelope.records()?;
        if records.is_empty() {
            return Err(invalid_event(
                "the payload has none of the fields of a known event",
            ));
        }
        let mut content = EventContent::default();
        for record in records {
            let record = self.record(record, envelopes);
            content.append(record.unwrap_or_else(EventContent::error));
        }
        Ok(content)
    }

    /// Parses a record of S3 or SNS.
    fn record(&self, record: &RawValue, envelopes: u8) -> Result<EventContent, Error> {
        let source = event_source(record)?;
        if source == "aws:sns" {
            let [sns] = fields(record.get(), ["Sns"])?;
            let sns = sns.ok_or_else(|| invalid_event("the record has no Sns"))?;
            let [message] = fields(sns.get(), ["Message"])?;
            return self.content(&string(message, "Sns.Message")?, envelopes + 1);
        }
        // Other stores use names of their own, such as `minio:s3`.
        if !source.ends_with(":s3") {
            return Err(invalid_event(
                "eventSource must be aws:s3, aws:sns or aws:sqs",
            ));
        }
        let [name, s3] = fields(record.get(), ["eventName", "s3"])?;
        let s3 = s3.ok_or_else(|| invalid_event("the record has no s3"))?;
        let (bucket, key) = object(s3)?;
        let name = string(name, "eventName")?;
        // Keys are URL-encoded ("Event message structure", Amazon S3 User Guide).
        let key = key.replace('+', " ");
        let key = percent_decode_str(&key)
            .decode_utf8()
            .map_err(|_| invalid_event("s3.object.key must be URL-encoded UTF-8"))?;
        let is_created =
            name.starts_with("ObjectCreated:") || name.starts_with("s3:ObjectCreated:");
        Ok(self.object_event(is_created, &bucket, &key))
    }

    /// Parses an EventBridge event ("EventBridge event message structure", Amazon S3 User Guide,
    /// and custom events with a `draft_url` or `draft_id` in `detail`).
    fn event_bridge(&self, event: &str) -> Result<EventContent, Error> {
        let [source, detail_type, detail] = fields(event, ["source", "detail-type", "detail"])?;
        let detail = detail.ok_or_else(|| invalid_event("the event has no detail"))?;
        if string(source, "source")? == "aws.s3" {
            // Here the key is not URL-encoded.
            let (bucket, key) = object(detail)?;
            let is_created = string(detail_type, "detail-type")? == "Object Created";
            return Ok(self.object_event(is_created, &bucket, &key));
        }
        let request = self
            .direct_request(&Envelope::parse(detail.get())?)
            .ok_or_else(|| invalid_event("detail must have a draft_url or draft_id"))?;
        Ok(EventContent::draft(request?.id))
    }

    /// Returns the draft whose document was created, or the reason to skip the object.
    fn object_event(&self, is_created: bool, bucket: &str, key: &str) -> EventContent {
        let skipped = |reason| EventContent::skipped(reason, Some(key.to_owned()));
        if !is_created {
            return skipped("the object was not created");
        }
        if bucket != self.bucket {
            return skipped("the object is in another bucket");
        }
        match self.prefix.parse_document(key) {
            Some(id) => EventContent::draft(id),
            None => skipped("the object is not the document of a draft"),
        }
    }

    /// Parses a direct invocation; `None` for any other event.
    fn direct_request(&self, envelope: &Envelope<'_>) -> Option<Result<DirectRequest, Error>> {
        let is_service_event = envelope.records.is_some()
            || envelope.detail_type.is_some()
            || envelope.request_context.is_some();
        if is_service_event {
            return None;
        }
        match (envelope.draft_url, envelope.draft_id) {
            (None, None) => None,
            (Some(url), None) => Some(self.draft_url(url)),
            (None, Some(id)) => Some(draft_id(id)),
            (Some(_), Some(_)) => Some(Err(Error::invalid_request(
                "Only one of draft_url and draft_id is allowed",
                "the event has both",
            ))),
        }
    }

    fn draft_url(&self, value: &RawValue) -> Result<DirectRequest, Error> {
        let invalid = |cause| Error::invalid_request("Invalid draft_url format", cause);
        let value =
            as_string(Some(value)).ok_or_else(|| invalid("draft_url must be a string".into()))?;
        let id = DraftId::from_url(&value, &self.allowed_hosts).map_err(invalid)?;
        Ok(DirectRequest {
            field: "draft_url",
            value,
            id,
        })
    }
}

fn draft_id(value: &RawValue) -> Result<DirectRequest, Error> {
    let invalid = |cause| Error::invalid_request("Invalid draft_id format", cause);
    let value =
        as_string(Some(value)).ok_or_else(|| invalid("draft_id must be a string".into()))?;
    let id = value
        .parse()
        .map_err(|error: crate::draft::InvalidDraftId| invalid(BoxError::from(error)))?;
    Ok(DirectRequest {
        field: "draft_id",
        value,
        id,
    })
}

/// Reads `bucket.name` and `object.key`.
fn object(value: &RawValue) -> Result<(String, String), Error> {
    let [bucket, object] = fields(value.get(), ["bucket", "object"])?;
    let missing = || invalid_event("the record names no bucket and object");
    let [name] = fields(bucket.ok_or_else(missing)?.get(), ["name"])?;
    let [key] = fields(object.ok_or_else(missing)?.get(), ["key"])?;
    Ok((string(name, "bucket.name")?, string(key, "object.key")?))
}

impl EventContent {
    fn draft(id: DraftId) -> Self {
        Self {
            ids: BTreeSet::from([id]),
            ..Self::default()
        }
    }

    fn skipped(reason: &'static str, key: Option<String>) -> Self {
        Self {
            skipped: vec![SkippedRecord { reason, key }],
            ..Self::default()
        }
    }

    fn error(error: Error) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    fn append(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.skipped.append(&mut other.skipped);
        self.error = self.error.take().or(other.error);
    }
}
