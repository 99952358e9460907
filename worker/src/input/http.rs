//! An input by HTTP ranges, with read-ahead.
//!
//! One response streams ahead of the demuxer into a bounded queue, so that reading costs no round
//! trip per request; small synchronous reads over a network are fatal for throughput. A seek near
//! ahead skips inside the stream; any other starts a new response. Container heads and tails are
//! visited repeatedly while opening, hence a few recently used blocks are kept.

use super::Cancelled;
use plexbeam_api::{Kind, Problem};
use reqwest::{StatusCode, blocking::Client, header};
use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

/// Bytes per block handed from the network thread.
const BLOCK: usize = 512 << 10;
/// Blocks that may wait: 8 MiB of read-ahead.
const AHEAD: usize = 16;
/// A seek at most this far ahead reads on instead of asking anew.
const SKIP: u64 = 2 << 20;
/// Blocks kept behind the read position.
const KEEP: usize = 8;
/// Longest silence of the server before the input counts as gone.
const STALL: Duration = Duration::from_secs(20);
/// Attempts to go on at a position after a broken connection.
const ATTEMPTS: u32 = 4;

struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn contains(&self, at: u64) -> bool {
        at >= self.start && at < self.start + self.bytes.len() as u64
    }
}

struct Stream {
    blocks: Receiver<io::Result<Vec<u8>>>,
    /// Position of the next block that it will give.
    next: u64,
}

/// A seekable reader over one URL.
pub(super) struct HttpSource {
    client: Client,
    url: reqwest::Url,
    size: u64,
    position: u64,
    stream: Option<Stream>,
    kept: VecDeque<Block>,
    cancelled: Cancelled,
}

impl HttpSource {
    /// Asks for the size and that ranges work; gives the source and a name for messages.
    pub(super) fn open(url: &str, cancelled: Cancelled) -> Result<(Self, String), Problem> {
        let parsed = reqwest::Url::parse(url)
            .map_err(|e| Problem::new(Kind::InvalidArgument, format!("input URL: {e}")))?;
        if parsed.scheme() != "http" {
            return Err(Problem::new(
                Kind::Unsupported,
                format!(
                    "input URL scheme `{}`: only http is possible today",
                    parsed.scheme()
                ),
            ));
        }
        // Name without query: it may hold a signature.
        let name = parsed
            .path()
            .rsplit('/')
            .next()
            .unwrap_or("input")
            .to_owned();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(None)
            .build()
            .map_err(|e| Problem::new(Kind::Internal, format!("HTTP client: {e}")))?;
        let host = parsed.host_str().unwrap_or("?").to_owned();
        let fail = |what: String| Problem::new(Kind::BadInput, format!("input at {host}: {what}"));
        let response = client
            .get(parsed.clone())
            .header(header::RANGE, "bytes=0-0")
            .timeout(Duration::from_secs(10))
            .send()
            .map_err(|e| fail(format!("{}", e.without_url())))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(fail(format!(
                "the server answered {} to a byte range; it must support ranges",
                response.status()
            )));
        }
        let size = response
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.rsplit('/').next())
            .and_then(|v| v.parse::<u64>().ok())
            .ok_or_else(|| fail("the server does not tell the size".to_owned()))?;
        if size == 0 {
            return Err(fail("the file is empty".to_owned()));
        }
        let source = HttpSource {
            client,
            url: parsed,
            size,
            position: 0,
            stream: None,
            kept: VecDeque::new(),
            cancelled,
        };
        Ok((source, name))
    }

    fn start(&self, at: u64) -> Stream {
        let (sender, blocks) = sync_channel(AHEAD);
        let (client, url, end) = (self.client.clone(), self.url.clone(), self.size);
        // The thread ends when the receiver is dropped, at the end of the file, or on an error.
        std::thread::spawn(move || {
            if let Err(error) = pump(&client, &url, at, end, &sender) {
                let _ = sender.send(Err(error));
            }
        });
        Stream { blocks, next: at }
    }

    /// The next block of the running stream, waiting at most [`STALL`].
    fn next_block(&mut self) -> io::Result<Block> {
        let stream = self
            .stream
            .as_mut()
            .ok_or_else(|| io::Error::other("no stream"))?;
        let deadline = Instant::now() + STALL;
        loop {
            match stream.blocks.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(bytes)) => {
                    let block = Block {
                        start: stream.next,
                        bytes,
                    };
                    stream.next += block.bytes.len() as u64;
                    return Ok(block);
                }
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    if (self.cancelled)() {
                        return Err(io::Error::other("cancelled"));
                    }
                    if Instant::now() >= deadline {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the media server sent nothing for 20 s",
                        ));
                    }
                }
            }
        }
    }

    /// Makes the block at the read position the last of `kept`.
    fn fetch(&mut self) -> io::Result<()> {
        let near = self
            .stream
            .as_ref()
            .is_some_and(|s| s.next <= self.position && self.position - s.next <= SKIP);
        if !near {
            self.stream = Some(self.start(self.position));
        }
        loop {
            let block = self.next_block()?;
            let hit = block.contains(self.position);
            self.kept.push_back(block);
            if self.kept.len() > KEEP {
                self.kept.pop_front();
            }
            if hit {
                return Ok(());
            }
        }
    }
}

/// Streams `[at, end)` into the queue; goes on where a broken connection stopped.
fn pump(
    client: &Client,
    url: &reqwest::Url,
    mut at: u64,
    end: u64,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let mut failures = 0;
    while at < end {
        let before = at;
        match pump_once(client, url, &mut at, end, sender) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                failures = if at > before { 1 } else { failures + 1 };
                if failures >= ATTEMPTS {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// One response. `Ok(true)`: nobody listens any more.
fn pump_once(
    client: &Client,
    url: &reqwest::Url,
    at: &mut u64,
    end: u64,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<bool> {
    let mut response = client
        .get(url.clone())
        .header(header::RANGE, format!("bytes={at}-{}", end - 1))
        .send()
        .map_err(|e| io::Error::other(e.without_url()))?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Err(io::Error::other(format!(
            "the media server answered {}",
            response.status()
        )));
    }
    loop {
        let mut block = vec![0; BLOCK.min((end - *at) as usize)];
        let mut filled = 0;
        while filled < block.len() {
            match response.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
            // The first bytes of a response are what the demuxer waits for.
            if filled >= 32 << 10 && filled < block.len() && block.len() == BLOCK && *at == 0 {
                break;
            }
        }
        if filled == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        block.truncate(filled);
        *at += filled as u64;
        if sender.send(Ok(block)).is_err() {
            return Ok(true);
        }
        if *at >= end {
            return Ok(false);
        }
    }
}

impl Read for HttpSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        if !self.kept.iter().any(|b| b.contains(self.position)) {
            self.fetch()?;
        }
        let position = self.position;
        let block = self
            .kept
            .iter()
            .rev()
            .find(|b| b.contains(position))
            .ok_or_else(|| io::Error::other("read-ahead lost its block"))?;
        let offset = (position - block.start) as usize;
        let count = buffer.len().min(block.bytes.len() - offset);
        buffer[..count].copy_from_slice(&block.bytes[offset..offset + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for HttpSource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(delta) => self.size.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
