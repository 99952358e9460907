//! Each worker: reachable, key, version, what it can encode, places, clock.

use super::{Checks, State};
use crate::config::Config;
use crate::http::{Call, CallError, Method, Url, within};
use http_body_util::BodyExt;
use plexbeam_api::{API_VERSION, Health, route};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A clock that is wrong by more makes logs hard to compare.
const SKEW: i64 = 30;

/// Looks at each; true when at least one can take a job.
pub(super) fn look(urls: &[Url], config: Option<&Config>, checks: &mut Checks) -> bool {
    if urls.is_empty() {
        checks.fail(
            "worker",
            "no worker is named, neither in the settings nor to the mount",
            "start the mount with --worker http://HOST:8765, or name `workers` in the settings",
        );
        return false;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        checks.fail(
            "worker",
            "no event loop can be made",
            "free some memory or files",
        );
        return false;
    };
    let mut usable = false;
    for url in urls {
        let mut own = Checks::default();
        let good = runtime.block_on(one(url, config, &mut own));
        usable |= good;
        // One that fails is a drawback only where another one works.
        checks.0.append(&mut own.0);
    }
    if usable {
        for check in &mut checks.0 {
            if check.name.starts_with("worker") && check.state == State::Fail {
                check.state = State::Warn;
            }
        }
    }
    usable
}

async fn one(url: &Url, config: Option<&Config>, checks: &mut Checks) -> bool {
    let key = config.and_then(|config| config.api_key.clone());
    let mut connection = crate::client::Worker::new(url.clone(), key).connection();
    let call = Call::new(Method::GET, url.join(route::HEALTH));
    let asking = async {
        connection.open(within(PATIENCE)).await?;
        let started = Instant::now();
        let response = connection.send(&call, within(PATIENCE)).await?;
        Ok::<_, CallError>((response, started.elapsed()))
    };
    let (response, time) = match asking.await {
        Ok(answer) => answer,
        Err(error) => {
            let fix = unreachable(&error, url);
            checks.fail("worker_reachable", error.to_string(), fix);
            return false;
        }
    };
    let date = response
        .headers()
        .get("date")
        .and_then(|date| date.to_str().ok());
    let date = date.and_then(seconds);
    let status = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => bytes::Bytes::new(),
    };
    judge(url, status, &body, time, date, checks)
}

fn unreachable(error: &CallError, url: &Url) -> String {
    match error {
        CallError::Resolve { .. } => format!("correct the name in {url}, or name an address"),
        CallError::Refused(_) => {
            format!("start plexbeam-worker there, with --listen on an address that {url} means")
        }
        CallError::Deadline(_) => {
            format!("let the firewall of that machine pass the port of {url}; is it switched on?")
        }
        CallError::Broken { .. } | CallError::TooLarge(_) => {
            format!("see that {url} is a plexbeam-worker and nothing else")
        }
    }
}

fn judge(
    url: &Url,
    status: u16,
    body: &[u8],
    time: Duration,
    date: Option<i64>,
    checks: &mut Checks,
) -> bool {
    let Ok(health) = serde_json::from_slice::<Health>(body) else {
        let fact = format!("{url} answers {status} and is no plexbeam-worker");
        checks.fail("worker_reachable", fact, "correct the URL of the worker");
        return false;
    };
    checks.ok(
        "worker_reachable",
        format!("{url} in {:.1} ms", time.as_secs_f64() * 1e3),
    );
    if health.api_version != API_VERSION {
        let fact = format!(
            "{url} speaks version {} of the contract, this is version {API_VERSION}",
            health.api_version
        );
        checks.fail(
            "worker_version",
            fact,
            "install the same release on both machines",
        );
        return false;
    }
    let Some(detail) = health.detail else {
        let fix = "put the worker's PLEXBEAM_API_KEY into the settings as api_key";
        checks.fail("worker_key", format!("{url} does not accept the key"), fix);
        return false;
    };
    checks.ok("worker_key", "accepted");
    match detail.version == env!("CARGO_PKG_VERSION") {
        true => checks.ok("worker_version", detail.version.clone()),
        false => checks.warn(
            "worker_version",
            format!(
                "the worker is {}, this is {}",
                detail.version,
                env!("CARGO_PKG_VERSION")
            ),
            "install the same release on both machines",
        ),
    }
    let able: Vec<&str> = detail
        .devices
        .iter()
        .filter(|device| !device.encoders.is_empty())
        .map(|device| device.name.as_str())
        .collect();
    if able.is_empty() {
        let why = detail
            .devices
            .iter()
            .find_map(|d| d.error.clone())
            .unwrap_or_default();
        let fix = "run `plexbeam-worker probe` there: it says what each device lacks";
        checks.fail(
            "worker_encoders",
            format!("nothing encodes on {url} {why}"),
            fix,
        );
        return false;
    }
    checks.ok("worker_encoders", able.join(", "));
    if health.status != "ok" {
        let fix = "start it again; it takes no jobs while it stops";
        checks.fail("worker_places", format!("{url} is {}", health.status), fix);
        return false;
    }
    let places = format!("{} of {} in use", detail.active, detail.max_jobs);
    match detail.active >= detail.max_jobs {
        true => {
            let fix = "wait for a job to end, or give the worker more with --max-jobs";
            checks.fail("worker_places", format!("{places} on {url}"), fix);
            return false;
        }
        false => checks.ok("worker_places", places),
    }
    let here = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64);
    match date.map(|there| there - here) {
        Some(skew) if skew.abs() > SKEW => checks.warn(
            "worker_clock",
            format!("{skew} s apart from this host's"),
            "let both machines take their time by NTP",
        ),
        Some(skew) => checks.ok("worker_clock", format!("{skew} s apart")),
        None => checks.skip("worker_clock", "it does not tell its time"),
    }
    true
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7) as seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = (MONTHS.find(words.next()?)? / 3) as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut time = words
        .next()?
        .split(':')
        .map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days from a civil date; the year begins in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    #[test]
    fn http_dates() {
        assert_eq!(
            super::seconds("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(
            super::seconds("Thu, 29 Feb 2024 00:00:00 GMT"),
            Some(1_709_164_800)
        );
        assert_eq!(super::seconds("yesterday"), None);
    }
}
