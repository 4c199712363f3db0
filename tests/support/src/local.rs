//! Protects servers on 127.0.0.1 from web pages.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};

/// Returns an error for a request that a web page may have sent: its `Host` is not 127.0.0.1 or localhost (DNS
/// rebinding), or its `Origin` is another (cross-site request). Ports are not compared. Requests to or from
/// `allowed_hosts` pass too.
pub fn check_local(headers: &HeaderMap, allowed_hosts: &[String]) -> Result<(), &'static str> {
    let is_local = |authority: &str| {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let mut hosts = ["127.0.0.1", "localhost"].into_iter();
        hosts.any(|local| host.eq_ignore_ascii_case(local))
            || allowed_hosts
                .iter()
                .any(|allowed| host.eq_ignore_ascii_case(allowed))
    };
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let hosts: Vec<_> = headers.get_all(HOST).iter().map(text).collect();
    if hosts.len() != 1 || !is_local(&hosts[0]) {
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
