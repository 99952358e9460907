//! Who may call (P8). With a key: the key opens everything, a session's token its own routes, and
//! without either only the liveness of `/health` and `/ready` is told. Without a key the worker
//! listens on loopback only, and a request must name a loopback host and come from no other web
//! page, since a browser on this machine is a loopback caller too.

use super::App;
use crate::error::Refusal;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use plexbeam_api::{Id, Kind, route};
use std::net::IpAddr;

/// How much the caller of a request may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Everything.
    Full,
    /// One session's own routes.
    Session,
    /// That the worker lives.
    Anybody,
}

pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match admit(&app, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn admit(app: &App, request: &Request) -> Result<Caller, Refusal> {
    let headers = request.headers();
    if app.key.is_none() {
        check_local(request)?;
    }
    let path = request.uri().path();
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_open = is_get && (path == route::HEALTH || path == route::READY);
    if let Some(token) = bearer(headers) {
        // A token that does not fit is refused even where nothing is asked for: it is a mistake.
        return match own_session(request.method(), path) {
            Some(id) if app.registry.opens(&id, token) => Ok(Caller::Session),
            _ if has_key(app, headers) => Ok(Caller::Full),
            _ if is_open => Ok(Caller::Anybody),
            _ => Err(unauthenticated("the token does not open this")),
        };
    }
    match &app.key {
        None => Ok(Caller::Full),
        Some(_) if has_key(app, headers) => Ok(Caller::Full),
        Some(_) if is_open => Ok(Caller::Anybody),
        Some(_) if headers.contains_key(route::API_KEY_HEADER) => {
            Err(unauthenticated("the API key is wrong"))
        }
        Some(_) => Err(unauthenticated(
            "send the API key in X-API-Key, or the session's token as Authorization: Bearer",
        )),
    }
}

fn unauthenticated(detail: &str) -> Refusal {
    const REALM: HeaderValue = HeaderValue::from_static("Bearer realm=\"plexbeam\"");
    Refusal::new(Kind::Unauthenticated, detail).with_header(header::WWW_AUTHENTICATE, REALM)
}

fn has_key(app: &App, headers: &HeaderMap) -> bool {
    let (Some(key), Some(offered)) = (&app.key, headers.get(route::API_KEY_HEADER)) else {
        return false;
    };
    key.is(offered.as_bytes())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// The session that a path belongs to; its token opens all below, and `DELETE` of itself.
fn own_session(method: &Method, path: &str) -> Option<Id> {
    let rest = path.strip_prefix(route::SESSIONS)?.strip_prefix('/')?;
    match rest.split_once('/') {
        Some((id, _)) => id.parse().ok(),
        None if *method == Method::DELETE => rest.parse().ok(),
        None => None,
    }
}

fn check_local(request: &Request) -> Result<(), Refusal> {
    let host = match request.headers().get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request
            .uri()
            .authority()
            .map(|authority| authority.as_str()),
    };
    let Some(host) = host.filter(|host| is_loopback(host)) else {
        return Err(foreign(&header::HOST));
    };
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let same = |origin: &HeaderValue| {
        let origin = origin.to_str().ok()?;
        let authority = origin.strip_prefix("http://")?;
        Some(authority.eq_ignore_ascii_case(host))
    };
    match origins.all(|origin| same(origin) == Some(true)) {
        true => Ok(()),
        false => Err(foreign(&header::ORIGIN)),
    }
}

fn foreign(name: &HeaderName) -> Refusal {
    let detail = format!(
        "without an API key only this machine may call, by a loopback name; the {name} header says \
         otherwise. Set a key with --api-key or PLEXBEAM_API_KEY"
    );
    Refusal::new(Kind::Unauthenticated, detail).with_status(StatusCode::FORBIDDEN)
}

/// `localhost`, `127.0.0.0/8` or `[::1]`, with or without a port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) => match port.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None => return false,
            },
            None => return false,
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        }
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let is_v6 = host.starts_with('[');
    name.parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() && ip.is_ipv6() == is_v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for yes in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.9.8.7:8765",
            "[::1]",
            "[::1]:1",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "",
            "localhost.evil.example",
            "evil.example:8765",
            "127.0.0.1.evil.example",
            "127.0.0.1:8765@evil",
            "128.0.0.1",
            "0.0.0.0",
            "::1",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "localhost:99999",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn a_token_is_for_its_session_routes() {
        let session = |method: Method, path| own_session(&method, path).map(String::from);
        let get = |path| session(Method::GET, path);
        assert_eq!(get("/sessions/a/files/x").as_deref(), Some("a"));
        assert_eq!(get("/sessions/a/events").as_deref(), Some("a"));
        assert_eq!(session(Method::DELETE, "/sessions/a").as_deref(), Some("a"));
        for path in [
            "/sessions/a",
            "/sessions",
            "/sessions/",
            "/sessions/../x/files",
            "/sessionsa/a/files",
            "/status/a",
            "/transcode/a",
            "/events",
        ] {
            assert_eq!(get(path), None, "{path}");
        }
    }
}
