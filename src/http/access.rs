//! Who may call: the token, the Host, the Origin. Checked before routing, on every path.
//!
//! Localhost is no boundary: a page in the user's browser reaches it, by name or by rebinding one, and so does the
//! agent's own browser. So the Host must be one of the server's names, an Origin its own, and the token is asked for
//! on loopback too.

use axum::http::{HeaderMap, StatusCode, Uri, header};
use subtle::ConstantTimeEq;

use super::error::Problem;

/// Paths that hold no data.
const OPEN: [&str; 6] = ["/", "/favicon.ico", "/health", "/ready", "/docs", "/api/v1/openapi.json"];

/// What a request must bring.
#[derive(Clone)]
pub struct Access {
    /// None when no token is asked for.
    token: Option<String>,
    /// The server's own names: `host:port`, or `host` at any port.
    hosts: Vec<String>,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Has shown the token, if one is asked for.
    User,
    /// Has not, and asked for nothing that needs it.
    Stranger,
}

impl Access {
    /// Asks for this token, if any, and for one of these names: `host:port`, or `host` at every port.
    pub fn new(token: Option<&str>, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { token: token.map(Into::into), hosts: hosts.into_iter().collect() }
    }

    /// Who calls, if it may.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Caller, Problem> {
        let forbidden = |detail: String| Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail));
        // A target may name a server, too, and then that is the one which is asked for.
        if uri.authority().is_some_and(|authority| !self.allows_host(authority.as_str())) {
            return forbidden("the request's target is on another server".into());
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.next().is_some() || !self.allows_host(host) {
            let detail = match host.is_empty() || host.len() > 256 {
                true => "send one Host header".to_owned(),
                false => format!("Host '{host}' is not allowed. Restart with --allow-host {}", name_of(host)),
            };
            return forbidden(detail);
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if origins.next().is_some() || own.is_none_or(|own| !self.allows_host(own)) {
                return forbidden("the Origin is not this server's own".into());
            }
        }
        let is_open = OPEN.contains(&uri.path());
        if is_of_another_site(headers) && !(is_open && is_navigation(headers)) {
            return forbidden("a page of another site made the browser send this".into());
        }
        match self.has_token(headers) {
            // Where no token is asked for, nobody shows one: who asks for data is a user.
            true if !is_open || self.token.is_some() => Ok(Caller::User),
            _ if is_open => Ok(Caller::Stranger),
            _ => {
                let detail = "send the token as Authorization: Bearer …; `culm token` prints it";
                Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail))
            }
        }
    }

    /// Whether a request for this Host is taken.
    pub fn allows_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host) || own.eq_ignore_ascii_case(name_of(host)))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.token else { return true };
        let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token.is_some_and(|(_, token)| bool::from(token.trim().as_bytes().ct_eq(expected.as_bytes())))
    }
}

/// What a browser says of a request that a page of another site made it send, also where it sends no Origin.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"))
}

/// Somebody follows a link: that page sees nothing of the answer.
fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name, value: &[u8]| headers.get(name).is_some_and(|given| given.as_bytes() == value);
    is("sec-fetch-mode", b"navigate") && is("sec-fetch-dest", b"document")
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}
