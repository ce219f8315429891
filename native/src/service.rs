//! One HTTP/2 request to one response: checks, the message, the wait for the handler, status and trailers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::protocol::{
    CANCELLED, DEADLINE_EXCEEDED, MessageReader, OK, RESOURCE_EXHAUSTED, Refusal, UNAVAILABLE, UNIMPLEMENTED,
    encode_message, parse_timeout, read_frame,
};
use crate::queue::{Answer, Method, Peer, Queue, Waiting, monotonic_micros};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A request must have arrived by then, however long its caller waits.
const ARRIVAL: Duration = Duration::from_secs(60);

/// How far the server is with its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    Serving,
    /// No new calls; those in flight finish, and calls that are held open are answered once more.
    Draining,
    /// Held calls end.
    Ended,
}

/// What all connections of a server share.
pub struct Shared {
    pub queue: Arc<Queue>,
    pub methods: HashMap<String, Arc<Method>>,
    pub elsewhere: String,
    pub max_message: usize,
    /// How many bytes of requests may be arriving at once, over all connections.
    pub max_arriving: usize,
    pub max_calls: usize,
    pub arriving: AtomicUsize,
    pub phase: watch::Receiver<Phase>,
    pub in_flight: AtomicUsize,
    pub idle: Notify,
}

/// What one connection's calls share.
pub struct Connection {
    pub shared: Arc<Shared>,
    pub peer: Arc<Peer>,
    pub calls: AtomicUsize,
    pub active: AtomicUsize,
}

/// Answer one request; what goes wrong is a gRPC status.
pub async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.method != http::Method::POST {
        return Ok(refused_by_http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let grpc = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return Ok(refused_by_http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let path = parts.uri.path();
    let shared = &connection.shared;
    let answered = match shared.methods.get(path) {
        Some(method) if method.held => return Ok(hold(&connection, method.clone(), parts.headers, body).await),
        Some(method) => unary(&connection, method.clone(), parts.headers, body).await,
        None => Err(Refusal::new(UNIMPLEMENTED, format!("There is no unary method {path}.{}", shared.elsewhere))),
    };
    Ok(match answered {
        Ok(answer) => response(answer),
        Err(refusal) => response(Answer::failed(refusal.code, refusal.message)),
    })
}

async fn unary(
    connection: &Arc<Connection>, method: Arc<Method>, mut headers: HeaderMap, body: Incoming,
) -> Result<Answer, Refusal> {
    let _counted = InFlight::begin(connection);
    if connection.shared.in_flight.load(Ordering::Relaxed) > connection.shared.max_calls {
        return Err(Refusal::new(RESOURCE_EXHAUSTED, "Too many calls are in progress. Try again a little later."));
    }
    let deadline = Deadline::of(&mut headers);
    let message = message(connection, &headers, body, &deadline).await?;
    ask(connection, method, headers, message, &deadline).await
}

/// When a caller waits no more.
struct Deadline {
    instant: Option<Instant>,
    micros: Option<i64>,
}

impl Deadline {
    /// Take the timeout out of the headers: it is the only one that differs from call to call.
    fn of(headers: &mut HeaderMap) -> Self {
        let timeout = headers.remove(TIMEOUT).and_then(|text| parse_timeout(text.as_bytes()));
        Self {
            instant: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            micros: timeout.map(|timeout| monotonic_micros().saturating_add(timeout.as_micros() as i64)),
        }
    }
}

fn late() -> Refusal {
    Refusal::new(DEADLINE_EXCEEDED, "Deadline Exceeded")
}

async fn message(
    connection: &Connection, headers: &HeaderMap, body: Incoming, deadline: &Deadline,
) -> Result<Bytes, Refusal> {
    let arrival = Instant::now() + ARRIVAL;
    let until = deadline.instant.map_or(arrival, |instant| instant.min(arrival));
    let arriving = arrive(connection, headers.get(ENCODING).map(HeaderValue::as_bytes), body);
    timeout_at(until, arriving).await.unwrap_or_else(|_| Err(late()))
}

async fn arrive(connection: &Connection, encoding: Option<&[u8]>, mut body: Incoming) -> Result<Bytes, Refusal> {
    let shared = &connection.shared;
    let mut room = Arriving { shared, bytes: 0 };
    let Some(first) = data(&mut body).await? else { return read_frame(Bytes::new(), encoding, shared.max_message) };
    if http_body::Body::is_end_stream(&body) {
        return read_frame(first, encoding, shared.max_message); // nearly every request is one piece
    }
    let mut reader = MessageReader::new(shared.max_message);
    let mut next = Some(first);
    while let Some(piece) = next {
        room.take(piece.len())?;
        reader.push(&piece)?;
        next = data(&mut body).await?;
    }
    reader.finish(encoding)
}

async fn data(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        match frame {
            Err(_) => return Err(Refusal::new(CANCELLED, "The request was broken off.")),
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
    Ok(None)
}

/// The bytes of a request that have arrived, as a part of what the whole server may hold.
struct Arriving<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Arriving<'_> {
    fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes;
        let all = self.shared.arriving.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match all > self.shared.max_arriving {
            true => Err(Refusal::new(RESOURCE_EXHAUSTED, "Too many large requests are arriving.")),
            false => Ok(()),
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.shared.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

async fn ask(
    connection: &Connection, method: Arc<Method>, headers: HeaderMap, message: Bytes, deadline: &Deadline,
) -> Result<Answer, Refusal> {
    let queue = &connection.shared.queue;
    let (sender, receiver) = oneshot::channel();
    let mut interest = Interest { id: queue.next_id(), queue, satisfied: false };
    queue.push(Waiting {
        id: interest.id,
        method,
        headers,
        peer: connection.peer.clone(),
        deadline: deadline.micros,
        since: monotonic_micros(),
        message,
        answer: sender,
    });
    let answered = match deadline.instant {
        Some(instant) => timeout_at(instant, receiver).await.map_err(|_| late())?,
        None => receiver.await,
    };
    interest.satisfied = answered.is_ok();
    answered.map_err(|_| match deadline.micros.is_some_and(|micros| micros <= monotonic_micros()) {
        true => late(),
        false => Refusal::new(UNAVAILABLE, "The server ended before the call was answered."),
    })
}

/// That somebody waits for an answer; when nobody does any more, the handler is told.
struct Interest<'a> {
    id: u64,
    queue: &'a Queue,
    satisfied: bool,
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        if !self.satisfied {
            self.queue.abandon(self.id);
        }
    }
}

/// A call that the end of the server waits for.
struct InFlight {
    connection: Arc<Connection>,
}

impl InFlight {
    fn begin(connection: &Arc<Connection>) -> Self {
        connection.calls.fetch_add(1, Ordering::Relaxed);
        connection.active.fetch_add(1, Ordering::Relaxed);
        connection.shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Self { connection: connection.clone() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.active.fetch_sub(1, Ordering::Relaxed);
        if self.connection.shared.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connection.shared.idle.notify_waiters();
        }
    }
}

async fn hold(
    connection: &Arc<Connection>, method: Arc<Method>, mut headers: HeaderMap, body: Incoming,
) -> Response<Body> {
    connection.calls.fetch_add(1, Ordering::Relaxed);
    let deadline = Deadline::of(&mut headers);
    let first = match message(connection, &headers, body, &deadline).await {
        Ok(message) => {
            let asked = ask(connection, method.clone(), headers.clone(), message.clone(), &deadline).await;
            asked.map(|answer| (message, answer))
        }
        Err(refusal) => Err(refusal),
    };
    match first {
        Err(refusal) => response(Answer::failed(refusal.code, refusal.message)),
        Ok((_, answer)) if answer.code != OK => response(answer),
        Ok((message, answer)) => {
            let (sender, receiver) = mpsc::channel(2);
            tokio::spawn(keep(connection.clone(), method, headers, message, answer.frame, deadline, sender));
            head(Body::Held(receiver))
        }
    }
}

/// Answer a held call now and when the server drains, until its caller or the server ends it.
async fn keep(
    connection: Arc<Connection>, method: Arc<Method>, headers: HeaderMap, message: Bytes, first: Bytes, deadline: Deadline,
    sender: mpsc::Sender<Piece>,
) {
    connection.active.fetch_add(1, Ordering::Relaxed);
    let mut phase = connection.shared.phase.clone();
    let _ = sender.send(Piece::Message(first)).await;
    let waited = async {
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
        let none = Deadline { instant: None, micros: None };
        if let Ok(answer) = ask(&connection, method, headers, message, &none).await {
            let _ = sender.send(Piece::Message(answer.frame)).await;
        }
        let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    };
    let refusal = tokio::select! {
        () = waited => Refusal::new(UNAVAILABLE, "The server ends."),
        () = sender.closed() => Refusal::new(CANCELLED, ""),
        () = until(deadline.instant) => late(),
    };
    let _ = sender.try_send(Piece::End(trailers(&Answer::failed(refusal.code, refusal.message))));
    connection.active.fetch_sub(1, Ordering::Relaxed);
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

pub enum Piece {
    Message(Bytes),
    End(HeaderMap),
}

/// What follows the head of a response.
pub enum Body {
    Empty,
    Once(Option<Bytes>, Option<HeaderMap>),
    Held(mpsc::Receiver<Piece>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Empty => None,
            Self::Once(frame, end) => frame.take().map(Frame::data).or_else(|| end.take().map(Frame::trailers)),
            Self::Held(pieces) => match pieces.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece.map(|piece| match piece {
                    Piece::Message(frame) => Frame::data(frame),
                    Piece::End(end) => Frame::trailers(end),
                }),
            },
        };
        Poll::Ready(piece.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Once(None, None))
    }
}

fn head(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Return an answer as a response; a failure has its status in the head, and no body.
fn response(answer: Answer) -> Response<Body> {
    let end = trailers(&answer);
    if answer.code == OK {
        return head(Body::Once(Some(answer.frame), Some(end)));
    }
    let mut response = head(Body::Empty);
    response.headers_mut().extend(end);
    if answer.code == UNIMPLEMENTED {
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
    }
    response
}

fn trailers(answer: &Answer) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2 + answer.trailers.len());
    fields.insert(STATUS, HeaderValue::from(answer.code));
    if !answer.message.is_empty() {
        if let Ok(text) = HeaderValue::from_str(&encode_message(&answer.message)) {
            fields.insert(MESSAGE, text);
        }
    }
    for (name, value) in &answer.trailers {
        fields.append(name.clone(), value.clone());
    }
    fields
}

fn refused_by_http(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}
