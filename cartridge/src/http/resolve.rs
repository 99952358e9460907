//! Host names to addresses without the C library.
//!
//! A static program that calls `getaddrinfo` loads the host's name service modules, and it would
//! look for them in Plex's `LD_LIBRARY_PATH`, a musl world. So: addresses and `localhost` directly,
//! then `/etc/hosts` and the servers of `/etc/resolv.conf`, by a resolver written in Rust.

use hickory_resolver::TokioResolver;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses of a host, in the order to try them. The caller sets the deadline.
pub(super) async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if bare.eq_ignore_ascii_case("localhost") {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
    let found = resolver
        .lookup_ip(bare)
        .await
        .map_err(|error| error.to_string())?;
    let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if addresses.is_empty() {
        return Err("no address".into());
    }
    Ok(addresses)
}
