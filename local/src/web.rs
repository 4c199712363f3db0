//! Protects servers on 127.0.0.1 from web pages.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};

const REFUSED: &str = "Requests from web pages of another origin are refused";

/// Returns an error for a request that a web page may have sent: its `Host` is not 127.0.0.1, localhost or one of
/// `allowed_hosts` (DNS rebinding), its `Origin` is not 127.0.0.1, localhost or `allowed_origin`, which may be `*`, or it
/// has none although it comes from another site, like that for an image. Ports are not compared.
pub fn check_local(
    headers: &HeaderMap,
    allowed_hosts: &[String],
    allowed_origin: Option<&str>,
) -> Result<(), &'static str> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let values = |name| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
    let hosts = values(HOST);
    let is_allowed = |authority: &str| {
        let mut allowed = allowed_hosts.iter();
        is_local(authority)
            || allowed.any(|host| without_port(authority).eq_ignore_ascii_case(host))
    };
    if hosts.len() != 1 || !is_allowed(&hosts[0]) {
        return Err(
            "The header Host must name 127.0.0.1, localhost or a host of the option --allow-host",
        );
    }
    let origins = values(ORIGIN);
    for origin in &origins {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let is_allowed = allowed_origin.is_some_and(|allowed| allowed == "*" || allowed == origin);
        if !is_allowed && !authority.is_some_and(is_local) {
            return Err(REFUSED);
        }
    }
    let sites = headers.get_all("sec-fetch-site").iter();
    if origins.is_empty() && sites.into_iter().any(|site| site == "cross-site") {
        return Err(REFUSED);
    }
    Ok(())
}

fn is_local(authority: &str) -> bool {
    let mut hosts = ["127.0.0.1", "localhost"].into_iter();
    hosts.any(|host| without_port(authority).eq_ignore_ascii_case(host))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}
