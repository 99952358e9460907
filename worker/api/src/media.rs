//! Signed URLs of the mount's media route: one file, for one job, until a moment.
//!
//! `GET /media/<path>?job=<id>&expires=<unix seconds>&signature=<hex>`, where `<path>` is the
//! absolute path in unpadded URL-safe base64 and the signature is HMAC-SHA-256 with the shared key
//! (or the mount's own secret where there is no key) over
//! `plexbeam-media-v1\n<path bytes>\n<job>\n<expires>`.

use crate::Id;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// First path component of the route.
pub const MEDIA: &str = "/media";

/// Why a media URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not of the form above.
    #[error("malformed media URL")]
    Malformed,
    /// Made with another key, or altered.
    #[error("the signature does not fit")]
    BadSignature,
    /// Its time is over.
    #[error("the media URL has expired")]
    Expired,
}

fn mac(secret: &[u8], path: &[u8], job: &str, expires: u64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(b"plexbeam-media-v1\n");
    mac.update(path);
    mac.update(format!("\n{job}\n{expires}").as_bytes());
    mac
}

/// The URL by which `job` may read the file at `path` (as bytes, on the Plex host) from the media
/// route at `base` until `expires` (seconds since the Unix epoch).
pub fn sign(base: &str, secret: &[u8], path: &[u8], job: &Id, expires: u64) -> String {
    let mut signature = String::with_capacity(64);
    for byte in mac(secret, path, job.as_str(), expires)
        .finalize()
        .into_bytes()
    {
        signature.push_str(&format!("{byte:02x}"));
    }
    let encoded = URL_SAFE_NO_PAD.encode(path);
    let base = base.trim_end_matches('/');
    format!("{base}{MEDIA}/{encoded}?job={job}&expires={expires}&signature={signature}")
}

/// Checks the parts of a media URL and gives the path of the file. `now` is in seconds since the
/// Unix epoch.
pub fn verify(
    secret: &[u8],
    encoded_path: &str,
    job: &str,
    expires: u64,
    signature: &str,
    now: u64,
) -> Result<Vec<u8>, Refused> {
    let path = URL_SAFE_NO_PAD
        .decode(encoded_path)
        .map_err(|_| Refused::Malformed)?;
    if signature.len() != 64 || !signature.is_ascii() {
        return Err(Refused::Malformed);
    }
    let raw: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&signature[2 * i..2 * i + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(|_| Refused::Malformed)?;
    mac(secret, &path, job, expires)
        .verify_slice(&raw)
        .map_err(|_| Refused::BadSignature)?;
    if now >= expires {
        Err(Refused::Expired)
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, String, u64, String) {
        let (path, query) = url.split_once('?').unwrap();
        let get = |key: &str| {
            let pair = query.split('&').find(|p| p.starts_with(key)).unwrap();
            pair.split_once('=').unwrap().1.to_owned()
        };
        let encoded = path.rsplit('/').next().unwrap().to_owned();
        (
            encoded,
            get("job"),
            get("expires").parse().unwrap(),
            get("signature"),
        )
    }

    #[test]
    fn a_signed_url_opens_its_own_file_only_until_it_expires() {
        let job: Id = "job-1".parse().unwrap();
        let path = "/library/Ünïcode & [brackets]/a.mkv".as_bytes();
        let url = sign("http://127.0.0.1:8766", b"key", path, &job, 1_000);
        let (encoded, job, expires, signature) = parts(&url);
        let check = |secret: &[u8], encoded: &str, job: &str, expires, now| {
            verify(secret, encoded, job, expires, &signature, now)
        };
        assert_eq!(check(b"key", &encoded, &job, expires, 999).unwrap(), path);
        assert_eq!(
            check(b"key", &encoded, &job, expires, 1_000),
            Err(Refused::Expired)
        );
        assert_eq!(
            check(b"kez", &encoded, &job, expires, 1),
            Err(Refused::BadSignature)
        );
        assert_eq!(
            check(b"key", &encoded, "job-2", expires, 1),
            Err(Refused::BadSignature)
        );
        assert_eq!(
            check(b"key", &encoded, &job, 2_000, 1),
            Err(Refused::BadSignature)
        );
        let other = URL_SAFE_NO_PAD.encode("/etc/shadow");
        assert_eq!(
            check(b"key", &other, &job, expires, 1),
            Err(Refused::BadSignature)
        );
        assert_eq!(
            check(b"key", "%%%", &job, expires, 1),
            Err(Refused::Malformed)
        );
    }
}
