//! Tests of the command `drafts`.
