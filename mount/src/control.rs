//! What the supervisor and its instances say to each other: JSON lines on a socket that the instance
//! has as its standard input. The first byte carries the descriptors that all instances share.

use plexbeam_fusefs::{Change, Secret, config::plain};
use rustix::{
    fd::{AsFd, OwnedFd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What an instance is told at its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The mountpoint without links.
    pub(crate) mountpoint: PathBuf,
    /// Folder of the caches.
    pub(crate) cache_dir: PathBuf,
    /// Signs media URLs where there is no key.
    #[serde(with = "plain")]
    pub(crate) media_secret: Secret,
    /// Who still runs, when it is to mount at once; else it waits for [`ToInstance::Go`].
    pub(crate) go: Option<Go>,
}

/// Earlier instances by number and bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Go {
    /// Those that still run.
    pub(crate) earlier: Vec<(u64, u64)>,
    /// The one of them that hands over now.
    pub(crate) handing: Option<u64>,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInstance {
    /// First of all.
    Start(Start),
    /// Mount.
    Go(Go),
    /// Give bindings and cache to a later instance.
    HandOver,
    /// It did not come up.
    TakeBack,
    /// It is mounted.
    HandedOver,
    /// Something was changed by way of an earlier instance.
    Change(Change),
    /// An earlier instance has ended.
    EarlierEnded(u64),
    /// Take the mount back and end.
    End,
}

/// From an instance.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInstance {
    /// Everything is there but the mount.
    Prepared,
    /// Bindings and cache are given; so many bytes are still used.
    HandedOver(u64),
    /// The kernel has agreed.
    Mounted,
    /// It cannot be; the text says what to do.
    Failed(String),
    /// A binding was changed by way of this instance.
    Change(Change),
}

/// How long the other side of a socket may read nothing.
const UNREAD: Duration = Duration::from_secs(1);

/// The writing half of a control socket. Who reads may be frozen: where the socket is full and nothing
/// is read for a second, it is given up, also for reading, since half a line may have been written.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<Mutex<UnixStream>>);

impl Writer {
    /// Writes to this socket.
    pub(crate) fn new(socket: UnixStream) -> Self {
        // Fails for a duration of zero only.
        let _ = socket.set_write_timeout(Some(UNREAD));
        Writer(Arc::new(Mutex::new(socket)))
    }

    /// Sends one line.
    pub(crate) fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&line).inspect_err(|_| {
            // Closed by the other side already, perhaps.
            let _ = socket.shutdown(Shutdown::Both);
        })
    }
}

/// Reads lines on a thread of its own; `each` gets `None` at the end.
pub(crate) fn read_lines<T: DeserializeOwned>(
    socket: UnixStream,
    each: impl Fn(Option<T>) + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(socket).lines() {
            match line.map(|line| serde_json::from_str(&line)) {
                Ok(Ok(message)) => each(Some(message)),
                Ok(Err(error)) => tracing::warn!(%error, "a control message is not understood"),
                Err(_) => break,
            }
        }
        each(None);
    });
}

/// Sends the shared descriptors.
pub(crate) fn send_descriptors(socket: &UnixStream, shared: &[&OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = shared.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    sendmsg(
        socket,
        &[IoSlice::new(b"D")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Receives them.
pub(crate) fn receive_descriptors(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frozen process keeps nobody who has something to tell it.
    #[test]
    fn who_reads_nothing_is_given_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let writer = Writer::new(ours);
        let line = "x".repeat(64 << 10);
        let told = (0..1000).take_while(|_| writer.send(&line).is_ok()).count();
        assert!((1..1000).contains(&told), "{told} lines were taken");
        // What was told before is still read, half a line is none.
        let lines = BufReader::new(theirs).lines();
        let whole = lines
            .map_while(Result::ok)
            .filter(|line| serde_json::from_str::<String>(line).is_ok());
        assert_eq!(whole.count(), told);
    }
}
