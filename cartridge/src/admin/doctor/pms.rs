//! Hears the calls of the transcoder as Plex Media Server would, and answers yes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A call: method, path with query, when.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) call: String,
    pub(super) at: Instant,
}

/// A listener with what it has heard. Its threads end with the connections, at the latest with the
/// process.
pub(super) struct Pms {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Pms {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let hears = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hears = hears.clone();
                // A connection that breaks is the transcoder's to make again.
                std::thread::spawn(move || drop(serve(stream, &hears)));
            }
        });
        Ok(Pms { address, heard })
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().map(|all| all.clone()).unwrap_or_default()
    }

    /// Calls whose path holds this.
    pub(super) fn count(&self, part: &str) -> usize {
        self.heard()
            .iter()
            .filter(|h| h.call.contains(part))
            .count()
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Vec<Heard>>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut length, mut chunked) = (0_u64, false);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
        }
        if chunked {
            skip_chunks(&mut reader)?;
        } else {
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        }
        let call = first
            .rsplit_once(' ')
            .map_or(first.as_str(), |(call, _)| call);
        if let Ok(mut heard) = heard.lock() {
            heard.push(Heard {
                call: call.to_owned(),
                at: Instant::now(),
            });
        }
        reader
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

fn skip_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<()> {
    loop {
        let mut size = String::new();
        if reader.read_line(&mut size)? == 0 {
            return Ok(());
        }
        let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
        io::copy(&mut reader.by_ref().take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(());
        }
    }
}
