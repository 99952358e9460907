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
/// How long a server may be away, as for a restart, before the input counts as gone. Shorter than
/// [`STALL`], so that its own words are told.
const AWAY: Duration = Duration::from_secs(15);
/// First pause before asking again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    /// The server's strong entity tag (RFC 9110 8.8.3), if it gave one.
    tag: Option<String>,
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
        let tag = (response.headers().get(header::ETAG))
            .and_then(|tag| tag.to_str().ok())
            .filter(|tag| tag.starts_with('"'))
            .map(str::to_owned);
        let source = HttpSource {
            client,
            url: parsed,
            size,
            tag,
            position: 0,
            stream: None,
            kept: VecDeque::new(),
            cancelled,
        };
        Ok((source, name))
    }

    /// Of this URL, without what its query signs, and of what the server calls this version of it.
    pub(super) fn version(&self) -> Option<String> {
        let tag = self.tag.as_ref()?;
        let mut url = self.url.clone();
        url.set_query(None);
        Some(format!("{url} {} {tag}", self.size))
    }

    fn start(&self, at: u64) -> Stream {
        let (sender, blocks) = sync_channel(AHEAD);
        let (client, url, end) = (self.client.clone(), self.url.clone(), self.size);
        // The thread ends when the receiver is dropped, at the end of the file, or on an error.
        std::thread::spawn(move || {
            if let Err(error) = pump(&client, &url, at, end, AWAY, &sender) {
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
    away: Duration,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    let mut since = Instant::now();
    let mut pause = FIRST_PAUSE;
    while at < end {
        let before = at;
        let error = match pump_once(client, url, &mut at, end, sender) {
            Ok(true) => return Ok(()),
            Ok(false) => continue,
            Err(Broken::Refused(error)) => return Err(error),
            Err(Broken::Gone(error)) => error,
        };
        if at > before {
            (since, pause) = (Instant::now(), FIRST_PAUSE);
        }
        if since.elapsed() + pause > away {
            return Err(error);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// Why a response ended early.
enum Broken {
    /// The server says no, and would again.
    Refused(io::Error),
    /// It may come back.
    Gone(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Gone(error)
    }
}

/// One response. `Ok(true)`: nobody listens any more.
fn pump_once(
    client: &Client,
    url: &reqwest::Url,
    at: &mut u64,
    end: u64,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> Result<bool, Broken> {
    let mut response = client
        .get(url.clone())
        .header(header::RANGE, format!("bytes={at}-{}", end - 1))
        .send()
        .map_err(|e| io::Error::other(e.without_url()))?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        let error = io::Error::other(format!("the media server answered {}", response.status()));
        return Err(match response.status().is_server_error() {
            true => Broken::Gone(error),
            false => Broken::Refused(error),
        });
    }
    loop {
        let mut block = vec![0; BLOCK.min((end - *at) as usize)];
        let mut filled = 0;
        while filled < block.len() {
            match response.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if filled == 0 => return Err(error.into()),
                Err(_) => break,
            }
            // The first bytes of a response are what the demuxer waits for.
            if filled >= 32 << 10 && filled < block.len() && block.len() == BLOCK && *at == 0 {
                break;
            }
        }
        if filled == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        sync::Arc,
    };

    const SIZE: usize = 3 << 20;

    fn byte(at: usize) -> u8 {
        (at * 31 / 7) as u8
    }

    /// Reads a request and gives the range that it asks for.
    fn range(socket: &TcpStream) -> Option<(usize, usize)> {
        let mut found = None;
        for line in BufReader::new(socket).lines() {
            let line = line.ok()?.to_ascii_lowercase();
            if let Some(text) = line.strip_prefix("range: bytes=") {
                let (from, to) = text.split_once('-')?;
                found = Some((from.parse().ok()?, to.parse().ok()?));
            }
            if line.is_empty() {
                return found;
            }
        }
        None
    }

    /// Answers the range but sends at most `most` bytes of it.
    fn answer(mut socket: TcpStream, most: usize) {
        let Some((from, to)) = range(&socket) else {
            return;
        };
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{to}/{SIZE}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            to + 1 - from
        );
        let body: Vec<u8> = (from..=to).take(most).map(byte).collect();
        // A client that has seen enough hangs up.
        let _ = socket
            .write_all(head.as_bytes())
            .and_then(|()| socket.write_all(&body));
    }

    fn open(port: u16) -> HttpSource {
        let url = format!("http://127.0.0.1:{port}/film.mkv");
        HttpSource::open(&url, Arc::new(|| false)).unwrap().0
    }

    #[test]
    fn a_server_that_restarts_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let mut sockets = listener.incoming().map_while(Result::ok);
            answer(sockets.next().unwrap(), 1);
            answer(sockets.next().unwrap(), 1 << 20);
            // Connections that are closed without an answer: the server is on its way down and up.
            for socket in sockets.by_ref().take(5) {
                drop(socket);
            }
            answer(sockets.next().unwrap(), SIZE);
        });
        let mut source = open(port);
        let mut film = Vec::new();
        source.read_to_end(&mut film).unwrap();
        assert_eq!(film.len(), SIZE);
        assert!(film.iter().enumerate().all(|(at, b)| *b == byte(at)));
        server.join().unwrap();
    }

    #[test]
    fn only_a_strong_tag_tells_versions_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let tags = [
            "ETag: \"a\"\r\n",
            "ETag: \"b\"\r\n",
            "ETag: W/\"a\"\r\n",
            "",
        ];
        let server = std::thread::spawn(move || {
            for tag in tags {
                let (mut socket, _) = listener.accept().unwrap();
                range(&socket);
                write!(
                    socket,
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/{SIZE}\r\n{tag}\
                     Content-Length: 1\r\nConnection: close\r\n\r\nx"
                )
                .unwrap();
            }
        });
        let versions = tags.map(|_| open(port).version());
        server.join().unwrap();
        assert!(versions[0].is_some() && versions[1].is_some());
        assert_ne!(versions[0], versions[1]);
        assert_eq!(versions[2..], [None, None]);
    }

    #[test]
    fn one_that_stays_away_or_refuses_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Client::new();
        let url: reqwest::Url = format!("http://127.0.0.1:{port}/film.mkv").parse().unwrap();
        let (sender, _blocks) = sync_channel(AHEAD);
        let pump = |away| pump(&client, &url, 0, SIZE as u64, away, &sender);
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            range(&socket);
            let no = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            socket.write_all(no.as_bytes()).unwrap();
        });
        // With no end of patience: a refusal is final.
        let refused = pump(Duration::MAX / 2).unwrap_err();
        assert!(refused.to_string().contains("403"), "{refused}");
        server.join().unwrap();
        // Nobody listens now.
        assert!(pump(Duration::from_millis(200)).is_err());
    }
}
