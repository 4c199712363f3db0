//! Invokes the function with any bytes as the payload.

#![no_main]

libfuzzer_sys::fuzz_target!(|payload: &[u8]| save_draft_fuzz::invoke(payload));
