//! Any bytes as the payload of an invocation.

#![no_main]

libfuzzer_sys::fuzz_target!(|payload: &[u8]| save_draft_fuzz::invoke(payload));
