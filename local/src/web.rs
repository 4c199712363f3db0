//! Protects servers on 127.0.0.1 from web pages.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};

/// Returns an error for a request that a web page may have sent: its `Host` is not 127.0.0.1 or localhost (DNS
/// rebinding), or its `Origin` is another (cross-site request). Ports are not compared. `allowed_hosts` are further names
/// for `Host`, but not for `Origin`.
pub fn check_local(headers: &HeaderMap, allowed_hosts: &[String]) -> Result<(), &'static str> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let hosts: Vec<_> = headers.get_all(HOST).iter().map(text).collect();
    let is_allowed = |authority: &str| {
        let mut allowed = allowed_hosts.iter();
        is_local(authority)
            || allowed.any(|host| without_port(authority).eq_ignore_ascii_case(host))
    };
    if hosts.len() != 1 || !is_allowed(&hosts[0]) {
        return Err("The header Host must name 127.0.0.1 or localhost");
    }
    let origins = headers.get_all(ORIGIN).iter().map(text);
    for origin in origins {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if !authority.is_some_and(is_local) {
            return Err("Requests from web pages of another origin are refused");
        }
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
