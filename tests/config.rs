//! The configuration: what each variable may be, and what is said of what it may not.

use std::collections::BTreeSet;

use save_draft::config::{Config, ConfigError, VARIABLES};
use save_draft::draft::{DraftId, Sha256Digest, Version};
use serde_json::Value;
use test_support::runtime::Bootstrap;
use time::OffsetDateTime;

use crate::common::BOOTSTRAP;

/// Reads these variables, and no others.
fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(|name| {
        let mut set = variables.iter().filter(|(set, _)| *set == name);
        Ok(set.next_back().map(|(_, value)| (*value).to_owned()))
    })
}

/// Reads this variable, beside what is required.
fn read_with(variable: &str, value: &str) -> Result<Config, ConfigError> {
    read(&[("DRAFT_BUCKET", "drafts"), (variable, value)])
}

fn example() -> (DraftId, Version) {
    let digest = Sha256Digest::of(b"{}");
    let version = Version::new(OffsetDateTime::UNIX_EPOCH, &digest).expect("1970 has four digits");
    ("1".parse().expect("it is an id"), version)
}

#[test]
fn the_defaults_are_those_that_are_documented() {
    let config = read(&[("DRAFT_BUCKET", "drafts")]).expect("it is enough");
    let (id, version) = example();
    assert_eq!(config.draft_bucket, "drafts");
    assert_eq!(config.saved_bucket, "drafts");
    assert_eq!(config.draft_key.of(&id), "drafts/1/draft_content.json");
    let saved = "saved/1/19700101T000000Z-44136fa355b3678a/draft_content.json";
    assert_eq!(config.saved_key.of(&id, &version), saved);
    assert_eq!(config.max_draft_bytes, 67_108_864);
    assert_eq!(config.draft_url_hosts, [""; 0]);
    assert!(!config.maintenance);
}

#[test]
fn each_variable_is_read() {
    let (id, version) = example();
    let config = read_with("SAVED_BUCKET", "vault").expect("it is a name");
    assert_eq!(
        (&*config.draft_bucket, &*config.saved_bucket),
        ("drafts", "vault")
    );
    let config = read_with("DRAFT_KEY", "x/{draft_id}").expect("it is a template");
    assert_eq!(config.draft_key.of(&id), "x/1");
    let config = read_with("SAVED_KEY", "{version}_{draft_id}").expect("it is a template");
    let saved = "19700101T000000Z-44136fa355b3678a_1";
    assert_eq!(config.saved_key.of(&id, &version), saved);
    for (text, bytes) in [("1", 1), ("5000000000", 5_000_000_000)] {
        let config = read_with("MAX_DRAFT_BYTES", text).expect("it is in range");
        assert_eq!(config.max_draft_bytes, bytes);
    }
    for (text, hosts) in [
        ("", &[][..]),
        (" ", &[]),
        ("example.com", &["example.com"]),
        (" Example.COM , localhost ", &["example.com", "localhost"]),
        (
            "例え.jp,127.0.0.1,[::1]",
            &["xn--r8jz45g.jp", "127.0.0.1", "[::1]"],
        ),
    ] {
        let config = read_with("DRAFT_URL_HOSTS", text).expect("they are hosts");
        assert_eq!(config.draft_url_hosts, hosts, "{text:?}");
    }
    for (text, maintenance) in [("true", true), ("false", false), ("", false)] {
        let config = read_with("MAINTENANCE", text).expect("it is one of two");
        assert_eq!(config.maintenance, maintenance, "{text:?}");
    }
}

/// A value for each variable that it may not have, and what is said of it.
const WRONG: [(&str, &str, &str); 9] = [
    (
        "DRAFT_BUCKET",
        "",
        r#"DRAFT_BUCKET is "", and has to be the name of an S3 bucket"#,
    ),
    (
        "DRAFT_KEY",
        "drafts/draft_content.json",
        r#"DRAFT_KEY is "drafts/draft_content.json", but it needs {draft_id} exactly once; its default is drafts/{draft_id}/draft_content.json"#,
    ),
    (
        "SAVED_BUCKET",
        "the vault",
        r#"SAVED_BUCKET is "the vault", and has to be the name of an S3 bucket"#,
    ),
    (
        "SAVED_KEY",
        "saved/{draft_id}",
        r#"SAVED_KEY is "saved/{draft_id}", but it needs {version} exactly once; its default is saved/{draft_id}/{version}/draft_content.json"#,
    ),
    (
        "SAVED_KEY",
        "drafts/{draft_id}-{version}/draft_content.json",
        "SAVED_KEY gives keys that DRAFT_KEY would take for a draft's, so that a save would set off the next; put the versions under another prefix, for example saved/{draft_id}/{version}/draft_content.json",
    ),
    (
        "MAX_DRAFT_BYTES",
        "64 MiB",
        r#"MAX_DRAFT_BYTES is "64 MiB", and has to be a whole number of bytes from 1 to 5000000000"#,
    ),
    (
        "DRAFT_URL_HOSTS",
        "https://example.com",
        r#"DRAFT_URL_HOSTS has "https://example.com" in it, and has to be a comma-separated list of host names, without scheme and port"#,
    ),
    (
        "MAINTENANCE",
        "yes",
        r#"MAINTENANCE is "yes", and may be "true" or "false""#,
    ),
    (
        "CORS_ORIGIN",
        "any of them",
        r#"CORS_ORIGIN is "any of them", and may be an origin, like https://example.com, or *"#,
    ),
];

#[test]
fn a_wrong_value_is_told_with_its_variable_and_what_it_may_be() {
    for (variable, value, message) in WRONG {
        let error = read_with(variable, value).expect_err(value);
        assert_eq!(error.variable, variable);
        assert_eq!(error.to_string(), message);
    }
    let told: BTreeSet<_> = WRONG.iter().map(|(variable, ..)| *variable).collect();
    assert_eq!(told, BTreeSet::from(VARIABLES));
    let missing = read(&[]).expect_err("a bucket is required").to_string();
    let expected = "DRAFT_BUCKET is not set: it names the bucket that the drafts are in";
    assert_eq!(missing, expected);
}

#[test]
fn nothing_is_taken_for_what_it_is_not() {
    let long = format!("{{draft_id}}{}", "x".repeat(961));
    let long_saved = format!("{{draft_id}}{{version}}{}", "x".repeat(928));
    for (variable, values) in [
        ("DRAFT_BUCKET", &[" ", "a b", "a\n", "a\0"][..]),
        ("SAVED_BUCKET", &["", "\t", "a b"]),
        (
            "DRAFT_KEY",
            &[
                "",
                "{draft_id}/{draft_id}",
                "{draft_id}/{version}",
                "{id}",
                "{draft_id",
                "{{draft_id}}",
                "{draft_id}\n",
                &long,
            ],
        ),
        (
            "SAVED_KEY",
            &[
                "",
                "{version}",
                "{draft_id}/{version}/{version}",
                "{draft_id}/{version}/{draft_id}",
                "{draft_id}/{version}/{x}",
                "{draft_id}/{version}}",
                "{draft_id}/{version}\0",
                "drafts/{version}{draft_id}/draft_content.json",
                &long_saved,
            ],
        ),
        (
            "MAX_DRAFT_BYTES",
            &[
                "",
                "0",
                "-1",
                "1.5",
                "1e6",
                " 1",
                "1 ",
                "0x10",
                "5000000001",
                "99999999999999999999",
            ],
        ),
        (
            "DRAFT_URL_HOSTS",
            &[
                ",", "a,,b", "a,", "a b", "//a", "a/", "a/b", "a?b", "a#b", "a:80", "u@a", "u:p@a",
                "exa<mple", "[::1", "*",
            ],
        ),
        ("MAINTENANCE", &["1", "0", "TRUE", "True", " true", "on"]),
    ] {
        for value in values {
            let error = read_with(variable, value).expect_err(value);
            assert_eq!(error.variable, variable, "{value:?}: {error}");
            assert!(
                error.to_string().starts_with(variable),
                "{value:?}: {error}"
            );
        }
    }
    let error = Config::read(|_| Err("is not UTF-8".to_owned())).expect_err("it is not UTF-8");
    assert_eq!(error.to_string(), "DRAFT_BUCKET is not UTF-8");
}

#[test]
fn the_longest_keys_fit() {
    let draft = format!("{{draft_id}}{}", "x".repeat(960));
    read_with("DRAFT_KEY", &draft).expect("64 bytes of an id fit");
    let saved = format!("saved/{{draft_id}}{{version}}{}", "x".repeat(921));
    read_with("SAVED_KEY", &saved).expect("64 bytes of an id and 33 of a version fit");
}

#[tokio::test]
async fn a_wrong_value_stops_the_start_with_one_message() {
    let missing = ("DRAFT_KEY", "x/{draft_id}", "DRAFT_BUCKET is not set");
    for (variable, value, message) in WRONG.into_iter().chain([missing]) {
        let bucket = (message != missing.2).then_some(("DRAFT_BUCKET", "drafts"));
        let function =
            Bootstrap::start(BOOTSTRAP, bucket.into_iter().chain([(variable, value)])).await;
        let status = function.wait_for_exit().await;
        assert_eq!(status.code(), Some(1), "{variable}");
        let lines = function.lines();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let line: Value = serde_json::from_str(&lines[0]).expect("it is JSON");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "the function did not start");
        let error = line["error"].as_str().expect("a text");
        assert!(error.starts_with(message), "{error}");
    }
}
