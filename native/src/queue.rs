//! Where requests wait for their handlers.
//!
//! A task of its own takes them from here, so that all that has arrived is answered under one hold of the interpreter, and answers on one
//! connection are written together.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;

use crate::protocol::{INTERNAL, OK, code_of, write_frame};

/// How long handlers are called one after the other before reading and writing have their turn, microseconds.
const TURN: i64 = 2_000;
/// How often Python is told how long calls wait, at most; microseconds.
const NOTE_EVERY: i64 = 20_000;

/// What goes back to a caller.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u32,
    pub message: String,
    pub trailers: Vec<(HeaderName, HeaderValue)>,
    /// The message with its prefix; empty unless the code is OK.
    pub frame: Bytes,
}

impl Answer {
    pub fn failed(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), trailers: Vec::new(), frame: Bytes::new() }
    }
}

/// Who is at the other end of a connection, and the Python objects that its calls share.
pub struct Peer {
    host: String,
    certificate: String,
    names: PyOnceLock<(Py<PyString>, Py<PyString>)>,
    metadata: Mutex<Option<(HeaderMap, Py<PyDict>)>>,
}

impl Peer {
    pub fn new(host: String, certificate: String) -> Self {
        Self { host, certificate, names: PyOnceLock::new(), metadata: Mutex::new(None) }
    }

    fn names(&self, py: Python<'_>) -> &(Py<PyString>, Py<PyString>) {
        self.names.get_or_init(py, || {
            (PyString::new(py, &self.host).unbind(), PyString::new(py, &self.certificate).unbind())
        })
    }

    /// Return headers as a dict; calls of a connection mostly send the same, and then share one.
    fn metadata<'py>(&self, py: Python<'py>, headers: HeaderMap) -> PyResult<Bound<'py, PyDict>> {
        let mut known = locked(&self.metadata);
        if let Some((sent, dict)) = known.as_ref() {
            if *sent == headers {
                return Ok(dict.bind(py).clone());
            }
        }
        let dict = PyDict::new(py);
        for (name, value) in &headers {
            if let (true, Ok(text)) = (is_metadata(name.as_str()), value.to_str()) {
                dict.set_item(name.as_str(), text)?;
            }
        }
        *known = Some((headers, dict.clone().unbind()));
        Ok(dict)
    }
}

fn is_metadata(name: &str) -> bool {
    !(name.starts_with("grpc-") || name.ends_with("-bin") || name == "te" || name == "content-type")
}

/// A call that waits for its turn.
pub struct Waiting {
    pub id: u64,
    pub method: Arc<Method>,
    pub headers: HeaderMap,
    pub peer: Arc<Peer>,
    /// Microseconds of the monotonic clock.
    pub deadline: Option<i64>,
    /// When it came, likewise.
    pub since: i64,
    pub message: Bytes,
    pub answer: oneshot::Sender<Answer>,
}

enum Event {
    Call(Box<Waiting>),
    /// The caller of a call that a coroutine works on has gone away, or waits no more.
    Abandoned(u64),
}

/// What is called, and how.
pub struct Method {
    pub name: Py<PyString>,
    pub handler: Py<PyAny>,
    /// It is answered at once and again when the server drains, and stays open.
    pub held: bool,
    /// It is answered without waiting, and admission is asked first.
    pub at_once: bool,
}

/// How Python makes and reads calls.
pub struct Python3 {
    pub call: Py<PyAny>,
    pub reply: Py<PyAny>,
    pub later: Py<PyAny>,
    pub admission: Option<Admission>,
}

/// What says whether there is time for one more call.
pub struct Admission {
    /// Returns the reply of a call that is not taken on, or None.
    pub refused: Py<PyAny>,
    /// Is told now and then how long a call has waited, in nanoseconds, and says whether `refused` is to be asked until it is told again.
    pub note: Py<PyAny>,
}

#[derive(Default)]
pub struct Queue {
    events: Mutex<VecDeque<Event>>,
    arrived: Notify,
    next_id: AtomicU64,
    running: Mutex<HashMap<u64, Py<PyAny>>>,
    noted: AtomicI64,
    crowded: AtomicBool,
}

impl Queue {
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub fn push(&self, waiting: Waiting) {
        self.add(Event::Call(Box::new(waiting)));
    }

    pub fn abandon(&self, id: u64) {
        self.add(Event::Abandoned(id));
    }

    fn add(&self, event: Event) {
        locked(&self.events).push_back(event);
        self.arrived.notify_one();
    }

    fn next(&self) -> Option<Event> {
        locked(&self.events).pop_front()
    }

    /// Answer what comes, for ever; after each turn the event loop is stirred, since a handler may have left it something to do.
    pub async fn answer_all(self: Arc<Self>, python: Arc<Python3>, stir: Arc<Notify>) {
        loop {
            self.arrived.notified().await;
            if Python::attach(|py| self.turn(py, &python)) {
                self.arrived.notify_one();
                yield_now().await; // once to read what has come, once to act on it: a caller may have given up meanwhile
            }
            stir.notify_one();
            yield_now().await;
        }
    }

    /// Answer what waits, and say whether there is more: a long turn is ended, so that the I/O and the event loop get to other things.
    fn turn(self: &Arc<Self>, py: Python<'_>, python: &Python3) -> bool {
        let until = monotonic_micros() + TURN;
        let mut first = true;
        while let Some(event) = self.next() {
            match event {
                Event::Call(waiting) => {
                    if let (true, Some(admission)) = (first, &python.admission) {
                        self.note(py, admission, waiting.since);
                    }
                    first = false;
                    self.answer(py, python, *waiting);
                }
                Event::Abandoned(id) => self.cancel(py, id),
            }
            if monotonic_micros() >= until {
                return true;
            }
        }
        false
    }

    /// Say how long the call that came first has waited, and learn whether calls are refused now.
    fn note(&self, py: Python<'_>, admission: &Admission, since: i64) {
        let now = monotonic_micros();
        if now - self.noted.load(Ordering::Relaxed) < NOTE_EVERY {
            return;
        }
        self.noted.store(now, Ordering::Relaxed);
        match admission.note.bind(py).call1(((now - since) * 1000,)).and_then(|crowded| crowded.is_truthy()) {
            Ok(crowded) => self.crowded.store(crowded, Ordering::Relaxed),
            Err(error) => error.write_unraisable(py, None),
        }
    }

    fn answer(self: &Arc<Self>, py: Python<'_>, python: &Python3, mut waiting: Waiting) {
        if waiting.answer.is_closed() || waiting.deadline.is_some_and(|deadline| deadline <= monotonic_micros()) {
            return; // its caller is gone, or was told that it is late
        }
        if waiting.method.at_once && self.crowded.load(Ordering::Relaxed) {
            if let Some(refusal) = refusal(py, python) {
                let _ = waiting.answer.send(refusal);
                return;
            }
        }
        let headers = std::mem::take(&mut waiting.headers);
        match call(py, python, &waiting, headers) {
            Ok(reply) if reply.get_type().as_ptr() == python.reply.as_ptr() => {
                let _ = waiting.answer.send(read_reply(&reply));
            }
            Ok(awaitable) => self.begin(py, python, waiting, awaitable),
            Err(error) => {
                error.write_unraisable(py, None);
                let _ = waiting.answer.send(Answer::failed(INTERNAL, "The handler failed."));
            }
        }
    }

    fn begin(self: &Arc<Self>, py: Python<'_>, python: &Python3, waiting: Waiting, awaitable: Bound<'_, PyAny>) {
        let id = waiting.id;
        let respond = Respond { id, queue: self.clone(), answer: Mutex::new(Some(waiting.answer)) };
        match Bound::new(py, respond).and_then(|respond| python.later.bind(py).call1((awaitable, respond))) {
            Ok(task) => {
                locked(&self.running).insert(id, task.unbind());
            }
            Err(error) => error.write_unraisable(py, None),
        }
    }

    fn cancel(&self, py: Python<'_>, id: u64) {
        let task = locked(&self.running).remove(&id);
        if let Some(Err(error)) = task.map(|task| task.call_method0(py, intern!(py, "cancel"))) {
            error.write_unraisable(py, None);
        }
    }
}

/// Return the answer to a call that there is no time for; its message has not been looked at.
fn refusal(py: Python<'_>, python: &Python3) -> Option<Answer> {
    match python.admission.as_ref()?.refused.bind(py).call0() {
        Ok(reply) if reply.is_none() => None,
        Ok(reply) => Some(read_reply(&reply)),
        Err(error) => {
            error.write_unraisable(py, None);
            None
        }
    }
}

fn call<'py>(py: Python<'py>, python: &Python3, waiting: &Waiting, headers: HeaderMap) -> PyResult<Bound<'py, PyAny>> {
    let metadata = waiting.peer.metadata(py, headers)?;
    let (host, certificate) = waiting.peer.names(py);
    let Method { name, handler, .. } = &*waiting.method;
    let made = python.call.bind(py).call1((name, metadata, host, waiting.deadline, certificate))?;
    handler.bind(py).call1((made, PyBytes::new(py, &waiting.message)))
}

/// Give the coroutine's answer to its caller.
#[pyclass(frozen)]
pub struct Respond {
    id: u64,
    queue: Arc<Queue>,
    answer: Mutex<Option<oneshot::Sender<Answer>>>,
}

#[pymethods]
impl Respond {
    fn __call__(&self, reply: &Bound<'_, PyAny>) {
        locked(&self.queue.running).remove(&self.id);
        if let Some(answer) = locked(&self.answer).take() {
            let _ = answer.send(read_reply(reply));
        }
    }
}

fn read_reply(reply: &Bound<'_, PyAny>) -> Answer {
    try_read_reply(reply).unwrap_or_else(|error| {
        error.write_unraisable(reply.py(), Some(reply));
        Answer::failed(INTERNAL, "The handler's answer is none.")
    })
}

fn try_read_reply(reply: &Bound<'_, PyAny>) -> PyResult<Answer> {
    let py = reply.py();
    let code = reply.getattr(intern!(py, "code"))?;
    let code = code_of(&code.cast::<PyString>()?.to_string_lossy());
    let listed = reply.getattr(intern!(py, "trailers"))?;
    let trailers = match listed.cast::<PyTuple>()? {
        none if none.is_empty() => Vec::new(),
        some => some.iter().filter_map(|pair| trailer(&pair)).collect(),
    };
    if code != OK {
        let message = reply.getattr(intern!(py, "message"))?.extract()?;
        return Ok(Answer { code, message, trailers, frame: Bytes::new() });
    }
    let body = reply.getattr(intern!(py, "body"))?;
    let frame = write_frame(body.cast::<PyBytes>()?.as_bytes());
    Ok(Answer { code, message: String::new(), trailers, frame })
}

/// Return a trailer as it is sent; one that HTTP cannot carry is left out.
fn trailer(pair: &Bound<'_, PyAny>) -> Option<(HeaderName, HeaderValue)> {
    let (name, value): (String, String) = pair.extract().ok()?;
    Some((name.parse().ok()?, HeaderValue::from_str(&value).ok()?))
}

/// Return the instant of the monotonic clock in microseconds, as Python's `time.monotonic_ns` counts.
pub fn monotonic_micros() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a live struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
