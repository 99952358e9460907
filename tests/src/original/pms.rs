//! The stand-in's calls to PMS, and the lists and manifests that it posts.

use super::{Fault, Made};
use crate::{argv::Shape, probe};
use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

/// The calls to PMS: one connection for progress, one for what is pipelined.
pub(super) struct Pms {
    host: String,
    base: String,
    token: String,
    fault: Option<Fault>,
    calls: TcpStream,
    lists: Option<TcpStream>,
    last_progress: Option<Instant>,
}

impl Pms {
    pub(super) fn connect(
        progress: &str,
        token: &str,
        fault: Option<Fault>,
    ) -> Result<Pms, String> {
        let rest = progress.strip_prefix("http://").ok_or("no http URL")?;
        let (host, path) = rest.split_once('/').ok_or("no path in the URL")?;
        let base = format!("/{}", path.trim_end_matches("/progress"));
        let calls = TcpStream::connect(host).map_err(|e| format!("connect to PMS: {e}"))?;
        Ok(Pms {
            host: host.to_owned(),
            base,
            token: token.to_owned(),
            fault,
            calls,
            lists: None,
            last_progress: None,
        })
    }

    pub(super) fn put(&mut self, target: &str) -> Result<(), String> {
        let token = match self.fault {
            Some(Fault::WrongToken) => "another",
            _ => &self.token,
        };
        let base = match self.fault {
            Some(Fault::WrongUrl) => self.base.replace("/session/", "/session/x"),
            _ => self.base.clone(),
        };
        let method = match self.fault {
            Some(Fault::WrongMethod) if target.starts_with("progress?progress") => "POST",
            _ => "PUT",
        };
        let head = format!(
            "{method} {base}/{target} HTTP/1.1\r\nHost: {}\r\nX-Plex-Token: {token}\r\nContent-Length: 0\r\n\r\n",
            self.host
        );
        exchange(&mut self.calls, head.as_bytes())
    }

    pub(super) fn post(&mut self, body: &str) -> Result<(), String> {
        if self.fault == Some(Fault::ClosedPipeline) {
            self.lists = None;
        }
        let host = self.host.clone();
        let lists = match &mut self.lists {
            Some(lists) => lists,
            None => self
                .lists
                .insert(TcpStream::connect(host).map_err(|e| format!("connect to PMS: {e}"))?),
        };
        let request = format!(
            "POST {}/manifest?X-Plex-Http-Pipeline=infinite HTTP/1.1\r\nHost: {}\r\nX-Plex-Token: {}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            self.base,
            self.host,
            self.token,
            body.len()
        );
        exchange(lists, request.as_bytes())
    }

    /// PROTOCOL 6.1.
    pub(super) fn startup(&mut self, film: &Path) -> Result<(), String> {
        self.put("progress?status=startup")?;
        let streams = probe::streams(film);
        let played = |s: &&probe::Stream| {
            ["video", "audio"].contains(&s.codec_type.as_str()) && !s.attached_picture()
        };
        let told = |s: &probe::Stream| {
            format!(
                "index={}&id=0&codec={}&type={}",
                s.index, s.codec_name, s.codec_type
            )
        };
        for stream in streams.iter().filter(played) {
            self.put(&format!("progress/stream?{}", told(stream)))?;
        }
        for stream in streams.iter().filter(|s| s.codec_type != "attachment") {
            if stream.attached_picture() || self.fault == Some(Fault::NoDetail) {
                continue;
            }
            let more = match stream.codec_type.as_str() {
                "video" => format!(
                    "&width={}&height={}&interlaced=0",
                    stream.width, stream.height
                ),
                "audio" => format!(
                    "&channels={}&layout=5.1&sampleRate={}",
                    stream.channels, stream.sample_rate
                ),
                _ => String::new(),
            };
            self.put(&format!("progress/streamDetail?{}{more}", told(stream)))?;
        }
        if self.fault != Some(Fault::NoDuration) {
            self.put(&format!("progress?duration={:.6}", probe::duration(film)))?;
        }
        self.put("progress?width=320&height=180")
    }

    pub(super) fn progress(&mut self) -> Result<(), String> {
        let fast = self.fault == Some(Fault::FastProgress);
        let due = self
            .last_progress
            .is_none_or(|at| at.elapsed() >= Duration::from_millis(500));
        if due || fast {
            self.last_progress = Some(Instant::now());
            self.put("progress?progress=10.0&size=-22&remaining=9&speed=3.0")?;
        }
        Ok(())
    }

    pub(super) fn announce(&mut self, made: &Made, work: &Path) -> Result<(), String> {
        let steps = match made {
            Made::Dash(mpd) => mpd.representations.iter().map(|r| r.entries.len()).min(),
            Made::Segments { rows, .. } => Some(rows.len()),
        }
        .unwrap_or(0);
        let names_of = |step: usize| -> Vec<String> {
            match made {
                Made::Dash(mpd) => mpd
                    .representations
                    .iter()
                    .flat_map(|r| {
                        let init = (step == 0).then(|| Shape::dash_name(&r.init, &r.id, None));
                        let number = r.entries[step].0;
                        init.into_iter()
                            .chain([Shape::dash_name(&r.pattern, &r.id, Some(number))])
                    })
                    .collect(),
                Made::Segments { rows, header, .. } => {
                    let header = header.clone().filter(|_| step == 0);
                    header
                        .into_iter()
                        .chain([rows[step].name.clone()])
                        .collect()
                }
            }
        };
        let mut order: Vec<usize> = (0..steps).collect();
        if self.fault == Some(Fault::OutOfOrder) && steps > 2 {
            order.swap(1, 2);
        }
        for (place, &step) in order.iter().enumerate() {
            let fault = self.fault.filter(|_| step == 1);
            for name in names_of(step) {
                let bytes = fs::read(work.join(&name)).map_err(|e| format!("{name}: {e}"))?;
                let keep = match fault {
                    Some(Fault::HalfFile) => bytes.len() / 2 + 1,
                    _ => bytes.len(),
                };
                if fault == Some(Fault::MissingFile) {
                    continue;
                }
                let temporary = format!("{name}.tmp");
                fs::write(&temporary, &bytes[..keep])
                    .and_then(|()| fs::rename(&temporary, &name))
                    .map_err(|e| format!("{name}: {e}"))?;
            }
            let withheld = matches!(fault, Some(Fault::Batch | Fault::SkippedNumber));
            if !withheld {
                self.post(&text(
                    made,
                    &order[..=place],
                    self.fault,
                    place + 1 == steps,
                ))?;
            }
            // The last one, so that a reader in time cannot have missed the change.
            if self.fault == Some(Fault::ChangedFile)
                && place + 1 == steps
                && let Some(name) = names_of(step).last()
            {
                let mut bytes = fs::read(name).map_err(|e| e.to_string())?;
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 0xff;
                }
                fs::write(name, bytes).map_err(|e| e.to_string())?;
            }
            self.progress()?;
        }
        Ok(())
    }
}

/// Writes a request and reads the head and body of the answer.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<(), String> {
    stream
        .write_all(request)
        .map_err(|e| format!("call to PMS: {e}"))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream
            .read(&mut chunk)
            .map_err(|e| format!("answer of PMS: {e}"))?;
        answer.extend_from_slice(&chunk[..n]);
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
        if n == 0 {
            return Ok(());
        }
        let Some(head) = head else { continue };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        let length = text
            .split("content-length: ")
            .nth(1)
            .and_then(|t| t.lines().next()?.trim().parse::<usize>().ok())
            .unwrap_or(0);
        if answer.len() >= head + 4 + length {
            return Ok(());
        }
    }
}

/// The list or manifest after the steps `done`.
fn text(made: &Made, done: &[usize], fault: Option<Fault>, last: bool) -> String {
    let shown = |step: &&usize| !(fault == Some(Fault::SkippedNumber) && **step == 1);
    let shown: Vec<&usize> = done.iter().filter(shown).collect();
    let newest = |count: usize| shown[shown.len().saturating_sub(count)..].to_vec();
    let last = last && fault != Some(Fault::NoLastManifest);
    match made {
        Made::Dash(mpd) => {
            let mut text = format!(
                "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"{}\"{}>\n<Period>\n",
                if last { "static" } else { "dynamic" },
                if last {
                    format!(
                        " mediaPresentationDuration=\"PT{}S\"",
                        mpd.duration.unwrap_or(0.0)
                    )
                } else {
                    String::new()
                }
            );
            for r in &mpd.representations {
                let window = newest(5);
                let start = window.first().map_or(0, |s| r.entries[**s].0);
                let _ = writeln!(
                    text,
                    "<AdaptationSet contentType=\"{}\"><Representation id=\"{}\"><SegmentTemplate timescale=\"{}\" initialization=\"{}\" media=\"{}\" startNumber=\"{start}\"><SegmentTimeline>",
                    r.media, r.id, r.time_scale, r.init, r.pattern
                );
                for step in window {
                    let (_, t, d) = r.entries[*step];
                    let shift = if fault == Some(Fault::IllTimed) {
                        r.time_scale
                    } else {
                        0
                    };
                    let _ = writeln!(text, "<S t=\"{}\" d=\"{d}\"/>", t + shift);
                }
                text.push_str(
                    "</SegmentTimeline></SegmentTemplate></Representation></AdaptationSet>\n",
                );
            }
            text.push_str("</Period></MPD>\n");
            text
        }
        Made::Segments { rows, size, .. } => {
            let window = newest((*size).max(1));
            window.into_iter().fold(String::new(), |mut text, step| {
                let row = &rows[*step];
                let shift = if fault == Some(Fault::IllTimed) {
                    10.0
                } else {
                    0.0
                };
                let (start, end) = (row.times.0 + shift, row.times.1 + shift);
                let _ = writeln!(text, "{},{start:.6},{end:.6},{end:.6},{end:.6}", row.name);
                text
            })
        }
    }
}
