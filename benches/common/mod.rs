//! Programs, the store and the process figures that the benches share.

mod figures;
pub mod programs;
mod store;

pub use self::figures::{Budget, cpu_time, median, memory};
pub use self::programs::{Program, programs};
pub use self::store::{Speed, Store};

use test_support::fixtures::{post_id, sample_draft};
use tokio::runtime::{Builder, Runtime};

/// Id of the draft that is saved.
const DRAFT_ID: &str = "bench";

/// Returns the payload of an invocation that saves the draft, as API Gateway sends it.
pub fn payload() -> String {
    post_id(DRAFT_ID).to_string()
}

/// Creates a runtime with one thread.
pub fn single_threaded_runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Returns a document of `bytes` bytes that repeats the example of a draft.
pub fn document(bytes: usize) -> Vec<u8> {
    let example = sample_draft();
    let example = example.trim_ascii();
    let mut document = br#"{"parts":["#.to_vec();
    let end = br#""]}"#;
    while document.len() + example.len() + end.len() < bytes {
        document.extend_from_slice(example);
        document.push(b',');
    }
    document.push(b'"');
    document.resize(bytes - end.len(), b'-');
    document.extend_from_slice(end);
    document
}
