//! Saves Jianying/CapCut drafts: reads a draft's document from S3 and writes an immutable,
//! versioned copy of it. An AWS Lambda function, for HTTP and for events.
//!
//! # The flow
//!
//! [`invocation`] gets a payload from the Lambda runtime. [`http`] or [`events`] reads it
//! into the id of a [`draft`], and hands that to [`save`]; [`save`] reads the document
//! from the [`store`], names the version, and creates it there. The way back is an answer
//! or an [`error`], whose kind says what the caller should do next. What happened on the
//! way is written by [`telemetry`].
//!
//! # Invariants
//!
//! 1. A success is answered only after S3 confirmed that the version is there.
//! 2. A version is created once and never changed: every write carries `If-None-Match: *`.
//! 3. A version holds one state of the draft, to the last byte: what was read short, or is
//!    no JSON object, is never written.
//! 4. The same state always has the same version, so a save may be repeated and raced.
//! 5. A save makes two requests to S3, as long as S3 answers them.
//! 6. Every invocation is answered before its deadline.
//! 7. A client sees the documented texts and nothing of their causes; the log sees the
//!    causes, and nothing of a draft's content.
//!
//! # The modules
//!
//! Dependencies point one way: `main -> invocation -> http, events -> save -> store, keys,
//! draft -> json, error`. [`save`] knows no event and no HTTP; [`store`] is the only module
//! that names the S3 SDK.

pub mod config;
pub mod draft;
pub mod error;
pub mod events;
pub mod http;
pub mod invocation;
pub mod json;
pub mod keys;
pub mod save;
pub mod sdk;
pub mod store;
pub mod telemetry;
