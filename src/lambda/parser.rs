//! What the services send, read into the drafts that it is about.

use std::collections::BTreeSet;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use aws_lambda_events::s3::S3EventRecord;
use aws_lambda_events::sns::SnsRecord;
use aws_lambda_events::sqs::SqsMessage;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::draft::{DraftId, DraftUrl, InvalidDraftId};
use crate::error::{Cause, Error, unread};
use crate::keys::DraftKey;

/// What tells a draft in an event from everything else.
#[derive(Clone, Debug)]
pub struct Source {
    /// The bucket whose events count.
    pub bucket: String,
    /// The keys that count.
    pub key: DraftKey,
    /// The hosts that a `draft_url` may name; empty for any.
    pub hosts: Vec<String>,
}

/// An event, read.
pub enum Event {
    /// A direct invocation.
    Direct(Direct),
    /// Something happened to drafts.
    Notification(Drafts),
    /// An SQS batch.
    Queue(Vec<Message>),
}

/// The one draft of a direct invocation, and what it was named by.
pub struct Direct {
    /// `draft_url` or `draft_id`.
    pub field: &'static str,
    /// The field's text, as it came.
    pub text: String,
    /// The draft.
    pub id: DraftId,
}

/// A message of a batch.
pub struct Message {
    /// What SQS knows it by.
    pub id: String,
    /// What is in it.
    pub drafts: Drafts,
}

/// The drafts of a notification.
#[derive(Default)]
pub struct Drafts {
    /// Those to save, each once.
    pub ids: BTreeSet<DraftId>,
    /// What is none of this function's business.
    pub skipped: Vec<Skipped>,
    /// What nobody understands.
    pub errors: Vec<Error>,
}

/// A record that is left alone.
pub struct Skipped {
    /// Why.
    pub reason: &'static str,
    /// The object it is about.
    pub key: Option<String>,
}

/// The fields that tell events apart, unread; all others are passed over.
#[derive(Deserialize)]
struct Envelope<'a> {
    /// S3, SNS and SQS.
    #[serde(rename = "Records", borrow)]
    records: Option<&'a RawValue>,
    /// EventBridge.
    #[serde(rename = "detail-type")]
    detail_type: Option<IgnoredAny>,
    /// What SNS puts into a queue.
    #[serde(rename = "Message", borrow)]
    message: Option<&'a RawValue>,
    /// What S3 sends when its notifications are set up.
    #[serde(rename = "Event", borrow)]
    event: Option<&'a RawValue>,
    /// HTTP.
    #[serde(rename = "requestContext")]
    request_context: Option<IgnoredAny>,
    #[serde(borrow)]
    draft_url: Option<&'a RawValue>,
    #[serde(borrow)]
    draft_id: Option<&'a RawValue>,
}

/// Where a record comes from: `EventSource` for SNS, `eventSource` for the others.
#[derive(Deserialize)]
struct RecordSource {
    #[serde(rename = "eventSource", alias = "EventSource")]
    name: String,
}

/// The `detail` of an EventBridge event from S3 ("EventBridge event message structure",
/// Amazon S3 User Guide).
#[derive(Deserialize)]
struct ObjectEvent {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

fn unknown(cause: impl Into<Cause>) -> Error {
    Error::invalid_request("The event is not one that this function knows", cause)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|error| unknown(unread(&error)))
}

/// How deep the envelopes are: a message of SQS may hold one of SNS, and that a
/// notification.
const MAX_ENVELOPES: u8 = 2;

impl Source {
    /// Reads the payload of an invocation.
    ///
    /// # Errors
    ///
    /// `InvalidRequest` if nobody understands it.
    pub fn read(&self, payload: &str) -> Result<Event, Error> {
        let envelope: Envelope<'_> = parse(payload)?;
        if let Some(direct) = self.direct(&envelope) {
            return direct.map(Event::Direct);
        }
        let records = envelope.records()?;
        if let Some(first) = records.first()
            && source_of(first)? == SQS
        {
            let messages = records.iter().map(|record| self.message(record));
            return messages.collect::<Result<_, _>>().map(Event::Queue);
        }
        self.drafts(payload, &envelope, 0).map(Event::Notification)
    }

    fn message(&self, record: &RawValue) -> Result<Message, Error> {
        let record: SqsMessage = parse(record.get())?;
        // Without its id, SQS could not be told to send it again: all of the batch has to.
        let id = record
            .message_id
            .ok_or_else(|| unknown("a message has no messageId"))?;
        let drafts = self.body(&record.body.unwrap_or_default(), 0);
        let drafts = drafts.unwrap_or_else(Drafts::not_understood);
        Ok(Message { id, drafts })
    }

    /// Reads the text that SQS or SNS hands on.
    fn body(&self, text: &str, envelopes: u8) -> Result<Drafts, Error> {
        let envelope: Envelope<'_> = parse(text)?;
        match self.direct(&envelope) {
            Some(direct) => Ok(Drafts::one(direct?.id)),
            None => self.drafts(text, &envelope, envelopes),
        }
    }

    /// Reads what is neither a direct invocation nor a batch of SQS.
    fn drafts(&self, text: &str, envelope: &Envelope<'_>, outer: u8) -> Result<Drafts, Error> {
        if outer > MAX_ENVELOPES {
            return Err(unknown("it has envelopes within envelopes"));
        }
        if envelope.request_context.is_some() {
            return Err(unknown("it is an HTTP event, but not a whole one"));
        }
        if envelope.detail_type.is_some() {
            return self.event_bridge(&parse(text)?);
        }
        if let Some(message) = envelope.message {
            let message: String = parse(message.get())?;
            return self.body(&message, outer + 1);
        }
        if let Some(event) = envelope.event {
            return match parse::<String>(event.get())?.as_str() {
                "s3:TestEvent" => Ok(Drafts::skipped("it is the test event of S3", None)),
                _ => Err(unknown("its Event is not s3:TestEvent")),
            };
        }
        let records = envelope.records()?;
        if records.is_empty() {
            return Err(unknown("it has none of the fields that events are told by"));
        }
        let mut all = Drafts::default();
        for record in records {
            all.add(
                self.record(record, outer)
                    .unwrap_or_else(Drafts::not_understood),
            );
        }
        Ok(all)
    }

    /// Reads a record of S3 or of SNS.
    fn record(&self, record: &RawValue, outer: u8) -> Result<Drafts, Error> {
        let source = source_of(record)?;
        if source == SNS {
            let record: SnsRecord = parse(record.get())?;
            return self.body(&record.sns.message, outer + 1);
        }
        // Other stores that speak S3 send the same, in their own name.
        if !source.ends_with(":s3") {
            return Err(unknown(format!("its records are from {source:?}")));
        }
        let record: S3EventRecord = parse(record.get())?;
        let missing = |what: &str| unknown(format!("the record has no {what}"));
        let name = record.event_name.ok_or_else(|| missing("eventName"))?;
        let bucket = record.s3.bucket.name.ok_or_else(|| missing("bucket"))?;
        let key = record.s3.object.key.ok_or_else(|| missing("object key"))?;
        // "Event message structure" (Amazon S3 User Guide): the key is URL-encoded.
        let key = key.replace('+', " ");
        let key = percent_decode_str(&key).decode_utf8().map_err(unknown)?;
        let created = name.starts_with("ObjectCreated:") || name.starts_with("s3:ObjectCreated:");
        Ok(self.object(created, &bucket, &key))
    }

    fn event_bridge(&self, event: &EventBridgeEvent<Box<RawValue>>) -> Result<Drafts, Error> {
        let detail = event.detail.get();
        if event.source != "aws.s3" {
            let direct = self.direct(&parse(detail)?);
            let direct = direct.ok_or_else(|| unknown("its detail names no draft"))?;
            return Ok(Drafts::one(direct?.id));
        }
        // Here the key is as it is, not URL-encoded.
        let detail: ObjectEvent = parse(detail)?;
        let created = event.detail_type == "Object Created";
        Ok(self.object(created, &detail.bucket.name, &detail.object.key))
    }

    /// The draft that an event about the object `key` is about, if it is about one.
    fn object(&self, created: bool, bucket: &str, key: &str) -> Drafts {
        let skipped = |reason| Drafts::skipped(reason, Some(key.to_owned()));
        if !created {
            return skipped("the object was not created");
        }
        if bucket != self.bucket {
            return skipped("the object is in another bucket");
        }
        let Some(id) = self.key.id_in(key) else {
            return skipped("the object is not the document of a draft");
        };
        Drafts::one(id)
    }

    /// The draft that an event names by itself, if it names one.
    fn direct(&self, envelope: &Envelope<'_>) -> Option<Result<Direct, Error>> {
        let service = envelope.records.is_some()
            || envelope.detail_type.is_some()
            || envelope.request_context.is_some();
        if service {
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

    fn draft_url(&self, value: &RawValue) -> Result<Direct, Error> {
        let invalid = |cause: Cause| Error::invalid_request("Invalid draft_url format", cause);
        let text: String = serde_json::from_str(value.get()).map_err(|e| invalid(unread(&e)))?;
        let url = DraftUrl::parse(&text, &self.hosts).map_err(|e| invalid(e.into()))?;
        Ok(Direct {
            field: "draft_url",
            text,
            id: url.into_id(),
        })
    }
}

fn draft_id(value: &RawValue) -> Result<Direct, Error> {
    let invalid = |cause: Cause| Error::invalid_request("Invalid draft_id format", cause);
    let text: String = serde_json::from_str(value.get()).map_err(|e| invalid(unread(&e)))?;
    let id = text
        .parse()
        .map_err(|e: InvalidDraftId| invalid(e.into()))?;
    Ok(Direct {
        field: "draft_id",
        text,
        id,
    })
}

const SQS: &str = "aws:sqs";
const SNS: &str = "aws:sns";

/// Which service a record is from.
fn source_of(record: &RawValue) -> Result<String, Error> {
    parse::<RecordSource>(record.get()).map(|source| source.name)
}

impl<'a> Envelope<'a> {
    fn records(&self) -> Result<Vec<&'a RawValue>, Error> {
        self.records
            .map_or_else(|| Ok(Vec::new()), |records| parse(records.get()))
    }
}

impl Drafts {
    fn one(id: DraftId) -> Self {
        Self {
            ids: BTreeSet::from([id]),
            ..Self::default()
        }
    }

    fn skipped(reason: &'static str, key: Option<String>) -> Self {
        Self {
            skipped: vec![Skipped { reason, key }],
            ..Self::default()
        }
    }

    fn not_understood(error: Error) -> Self {
        Self {
            errors: vec![error],
            ..Self::default()
        }
    }

    fn add(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.skipped.append(&mut other.skipped);
        self.errors.append(&mut other.errors);
    }
}
