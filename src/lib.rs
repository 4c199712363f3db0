//! Saves Jianying/CapCut drafts: reads a draft's document from S3 and creates an immutable version
//! of it. Runs on AWS Lambda, for HTTP requests and for events.
//!
//! # Flow
//!
//! 1. [`lambda`] receives the payload of an invocation and reads the draft ids in it.
//! 2. [`save`] reads the document of each draft from [`s3`], [validates](draft::document) it, names
//!    its [version](draft::Version) and creates it. With `SAVE_FILES=true`, it copies the draft's
//!    other files before that.
//! 3. [`lambda`] turns the result, or the [`error`], into the response that the trigger expects, and
//!    [logs](lambda::telemetry) each save.
//!
//! # Invariants
//!
//! 1. A success is reported only after S3 has confirmed that the version exists.
//! 2. A version is created once and never changed: every request that creates an object has `If-None-Match: *`.
//! 3. A version is one state of the draft, byte for byte. A document that was read incompletely, or
//!    is neither a JSON object nor an encrypted document, is never written.
//! 4. The same state always has the same version, so that saves can be repeated and run concurrently.
//! 5. A save makes two requests to S3, and more only if the document is `draft_info.json`, other files
//!    are saved, or a request has to be repeated.
//! 6. Every invocation is answered before its deadline.
//! 7. A client receives only documented texts. Causes are logged, without the content of a draft.
//!
//! # Modules
//!
//! ```text
//! main        entry point: configuration, clients, run
//!   lambda      invocations: dispatch, HTTP, events, log records
//!     save        the use case: a draft becomes a version
//!       s3          S3 operations, and what their responses mean
//!         config      environment variables
//!           draft       ids, documents, versions and their keys, without I/O
//!             error       errors by what the caller should do
//! ```
//!
//! A module uses only modules below it: [`save`] does not depend on Lambda or HTTP, and [`s3`] uses no
//! status codes of the API.

pub mod config;
pub mod draft;
pub mod error;
pub mod lambda;
pub mod s3;
pub mod save;
