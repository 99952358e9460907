//! The event stream of a session: server-sent events, followed across broken connections.
//!
//! The stream is the lease (P5): the worker sends a heartbeat each second, the cartridge answers with
//! `PUT .../lease` beside it. Two seconds of silence mean a dead connection; it is made again with
//! `Last-Event-ID`, so that no event is lost and none is seen twice.

use super::{Error, Remedy, Session};
use crate::http::{Call, CallError, Connection, Method, within};
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use plexbeam_api::{Event, Kind, route};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Silence after which a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(2);
/// Bound of making the connection again.
const CONNECT: Duration = Duration::from_secs(2);
/// Unheard this long, a worker is given up while the original can still take over unseen.
const GIVE_UP_EARLY: Duration = Duration::from_secs(4);
/// Unheard this long, it is given up in any case: the worker has freed the job by then.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Refusals in a row after which the worker's process counts as gone.
const REFUSALS: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// Renewal of the lease.
const RENEW: Duration = Duration::from_secs(1);
/// Longest event that is taken; a `probed` of many streams is some tens of KiB.
const MAX_EVENT: usize = 4 << 20;

/// What comes out of a followed session.
#[derive(Debug)]
pub enum Heard {
    /// The next event; each once, in order.
    Event(Box<Event>),
    /// Nothing more will come: the session or its worker is lost.
    Lost(String),
}

/// A followed session; stops when dropped.
pub struct Follow {
    /// What comes out of it.
    pub heard: mpsc::Receiver<Heard>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Follows a session and keeps its lease. `patient` is set once something has been announced: from
/// then on the worker gets more time to come back.
pub fn follow(session: &Session, patient: Arc<AtomicBool>) -> Follow {
    // The receiver never waits for anything slow; the bound only smooths bursts.
    let (tell, heard) = mpsc::channel(256);
    let reader = Reader {
        session: session.clone(),
        patient,
        tell,
        last_id: 0,
        last_heard: Instant::now(),
    };
    let lease = session.clone();
    Follow {
        heard,
        tasks: [tokio::spawn(reader.run()), tokio::spawn(renew(lease))],
    }
}

/// Renews the lease for as long as the task lives. Failures are the event stream's to judge.
async fn renew(session: Session) {
    let mut connection = session.connection();
    let mut ticks = tokio::time::interval(RENEW);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let _ = session.renew(&mut connection).await;
    }
}

struct Reader {
    session: Session,
    patient: Arc<AtomicBool>,
    tell: mpsc::Sender<Heard>,
    last_id: u64,
    last_heard: Instant,
}

/// Why one connection ended.
enum End {
    /// The session's last event came, or nobody listens any more.
    Finished,
    /// Try again.
    Failed(Error),
}

impl Reader {
    async fn run(mut self) {
        let mut refusals = 0;
        loop {
            let before = self.last_heard;
            let error = match self.connection().await {
                End::Finished => return,
                End::Failed(error) => error,
            };
            if self.last_heard > before {
                refusals = 0;
            }
            if matches!(error, Error::Call(CallError::Refused(_))) {
                refusals += 1;
            }
            let bound = match self.patient.load(Ordering::Relaxed) {
                true => GIVE_UP,
                false => GIVE_UP_EARLY,
            };
            let gone = match &error {
                Error::Problem { problem, .. } => gone(problem.kind),
                Error::Call(_) | Error::Protocol { .. } => false,
            };
            if gone || refusals >= REFUSALS || self.last_heard.elapsed() >= bound {
                // The receiver may be gone already, which is the same end.
                let _ = self.tell.send(Heard::Lost(error.to_string())).await;
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn connection(&mut self) -> End {
        match self.read_one().await {
            Ok(()) => End::Finished,
            Err(error) => End::Failed(error),
        }
    }

    /// One connection from its request to its end. `Ok` when there is nothing more to follow.
    async fn read_one(&mut self) -> Result<(), Error> {
        let mut connection: Connection = self.session.connection();
        let path = format!("{}?lease", route::session_events(self.session.id()));
        let mut call = Call::new(Method::GET, self.session.worker().base().join(&path));
        call.headers
            .push((ACCEPT, HeaderValue::from_static("text/event-stream")));
        if self.last_id > 0 {
            let name = HeaderName::from_static("last-event-id");
            call.headers.push((name, HeaderValue::from(self.last_id)));
        }
        let response = connection.send(&call, within(CONNECT)).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            let deadline = within(CONNECT);
            return Err(self.session.refusal(status, &mut body, deadline).await);
        }
        let mut parser = Parser::default();
        loop {
            let data = self.session.next_data(&mut body, within(SILENCE)).await?;
            let Some(data) = data else {
                return Err(self.ended());
            };
            self.last_heard = Instant::now();
            parser.push(&data);
            while let Some(message) = parser.next_message() {
                if self.deliver(message).await {
                    return Ok(());
                }
            }
            if parser.buffered() > MAX_EVENT {
                return Err(self.protocol("an event that is too large"));
            }
        }
    }

    /// Gives one event on; true when it was the last one.
    async fn deliver(&mut self, message: Message) -> bool {
        if message.id.is_some_and(|id| id <= self.last_id) {
            return false;
        }
        self.last_id = message.id.unwrap_or(self.last_id);
        // An event of a kind that is not known is of a newer worker, and none of our business.
        let Ok(event) = serde_json::from_str::<Event>(&message.data) else {
            return false;
        };
        let end = matches!(&event, Event::State(change) if change.state.is_end());
        self.tell.send(Heard::Event(Box::new(event))).await.is_err() || end
    }

    fn ended(&self) -> Error {
        Error::Call(CallError::Broken {
            peer: self.session.worker().base().to_string(),
            why: "the event stream ended".into(),
        })
    }

    fn protocol(&self, what: &str) -> Error {
        self.session.worker().protocol(what.to_owned())
    }
}

/// True for a refusal that another try will not change.
fn gone(kind: Kind) -> bool {
    match kind {
        Kind::NotFound
        | Kind::Gone
        | Kind::Unauthenticated
        | Kind::InvalidArgument
        | Kind::Conflict
        | Kind::TooLarge
        | Kind::Unsupported
        | Kind::BadInput
        | Kind::Cancelled => true,
        Kind::NotYet | Kind::Exhausted | Kind::Unavailable | Kind::Deadline | Kind::Internal => {
            false
        }
    }
}

/// One server-sent event (WHATWG HTML 9.2).
#[derive(Debug, PartialEq, Eq)]
struct Message {
    id: Option<u64>,
    data: String,
}

/// Splits a byte stream into server-sent events. Comments, which are the heartbeat, vanish.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    /// Where to go on looking for a line end.
    scanned: usize,
    id: Option<u64>,
    data: Option<String>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn buffered(&self) -> usize {
        self.buffer.len() + self.data.as_ref().map_or(0, String::len)
    }

    fn next_message(&mut self) -> Option<Message> {
        loop {
            let rest = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                self.scanned = self.buffer.len();
                return None;
            };
            let line: Vec<u8> = self.buffer.drain(..=self.scanned + end).collect();
            self.scanned = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let id = self.id.take();
                if let Some(data) = self.data.take() {
                    return Some(Message { id, data });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.id = value.parse().ok(),
                "data" => match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
    }
}

/// A failed call whose remedy is to try again, for loops that fetch.
pub(crate) fn may_retry(error: &Error) -> bool {
    match error.remedy() {
        Remedy::Retry => true,
        Remedy::OtherWorker | Remedy::Local => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(chunks: &[&str]) -> Vec<(Option<u64>, String)> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        for chunk in chunks {
            parser.push(chunk.as_bytes());
            while let Some(message) = parser.next_message() {
                all.push((message.id, message.data));
            }
        }
        all
    }

    #[test]
    fn events_are_found_wherever_the_stream_is_cut() {
        let text = ": beat\n\nid: 1\nevent: progress\ndata: {\"a\":1}\n\n: beat\n\nid:2\r\ndata:x\r\ndata: y\r\n\r\n";
        let want = vec![
            (Some(1), "{\"a\":1}".to_owned()),
            (Some(2), "x\ny".to_owned()),
        ];
        assert_eq!(messages(&[text]), want);
        for at in 0..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(messages(&[a, b]), want, "cut at {at}");
        }
    }

    #[test]
    fn comments_and_fields_without_data_are_no_event() {
        assert_eq!(messages(&[":\n\n:ok\n\nid: 7\n\nretry: 5\n\n"]), []);
    }
}
