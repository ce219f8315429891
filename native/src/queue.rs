//! Where the I/O thread leaves requests, and Python's event loop takes them.
//!
//! The I/O thread never runs Python: it pushes, and writes to a descriptor that the event loop reads from, once per batch. The event loop
//! calls `Queue::turn`, which takes all that is there under one hold of the interpreter.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use tokio::sync::oneshot;

use crate::protocol::{INTERNAL, OK, code_of, write_frame};

const BATCH: usize = 64;
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
    pub method: Arc<str>,
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

/// The handlers, and how Python makes and reads calls.
pub struct Python3 {
    pub handlers: HashMap<String, Py<PyAny>>,
    pub call: Py<PyAny>,
    pub reply: Py<PyAny>,
    pub later: Py<PyAny>,
    pub admission: Option<Admission>,
}

/// What says whether there is time for one more call.
pub struct Admission {
    /// The methods that are asked about: those that are answered without waiting.
    pub methods: HashSet<String>,
    /// Returns the reply of a call that is not taken on, or None.
    pub refused: Py<PyAny>,
    /// Is told now and then how long a call has waited, in nanoseconds.
    pub note: Py<PyAny>,
}

pub struct Queue {
    events: Mutex<VecDeque<Event>>,
    signalled: AtomicBool,
    next_id: AtomicU64,
    descriptor: RawFd,
    running: Mutex<HashMap<u64, Py<PyAny>>>,
    noted: AtomicI64,
}

impl Queue {
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: eventfd takes no pointers; its result is checked.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self {
            events: Mutex::default(),
            signalled: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            descriptor,
            running: Mutex::default(),
            noted: AtomicI64::new(0),
        })
    }

    /// What the event loop waits on.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

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
        self.signal();
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes of a live array to our own descriptor; it can only fail when the counter is full, which wakes too.
            unsafe { libc::write(self.descriptor, one.as_ptr().cast(), one.len()) };
        }
    }

    /// Answer what waits; more than a batch is left for the event loop's next turn, so that it gets to other things.
    pub fn turn(self: &Arc<Self>, py: Python<'_>, python: &Python3) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most eight bytes into a live array.
        unsafe { libc::read(self.descriptor, count.as_mut_ptr().cast(), count.len()) };
        self.signalled.store(false, Ordering::Release);
        let (batch, more) = {
            let mut events = locked(&self.events);
            let count = events.len().min(BATCH);
            (events.drain(..count).collect::<Vec<_>>(), events.len() > 0)
        };
        if let (Some(admission), Some(Event::Call(first))) = (&python.admission, batch.first()) {
            self.note(py, admission, first.since);
        }
        for event in batch {
            match event {
                Event::Call(waiting) => self.answer(py, python, *waiting),
                Event::Abandoned(id) => self.cancel(py, id),
            }
        }
        if more {
            self.signal();
        }
    }

    /// Say how long the call that came first has waited.
    fn note(&self, py: Python<'_>, admission: &Admission, since: i64) {
        let now = monotonic_micros();
        if now - self.noted.load(Ordering::Relaxed) < NOTE_EVERY {
            return;
        }
        self.noted.store(now, Ordering::Relaxed);
        if let Err(error) = admission.note.bind(py).call1(((now - since) * 1000,)) {
            error.write_unraisable(py, None);
        }
    }

    fn answer(self: &Arc<Self>, py: Python<'_>, python: &Python3, mut waiting: Waiting) {
        if waiting.answer.is_closed() || waiting.deadline.is_some_and(|deadline| deadline <= monotonic_micros()) {
            return; // its caller is gone, or was told that it is late
        }
        if let Some(refusal) = refusal(py, python, &waiting.method) {
            let _ = waiting.answer.send(refusal);
            return;
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

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours, and nobody has it after us.
        unsafe { libc::close(self.descriptor) };
    }
}

/// Return the answer to a call that there is no time for; its message has not been looked at.
fn refusal(py: Python<'_>, python: &Python3, method: &str) -> Option<Answer> {
    let admission = python.admission.as_ref().filter(|admission| admission.methods.contains(method))?;
    match admission.refused.bind(py).call0() {
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
    let made = python.call.bind(py).call1((&*waiting.method, metadata, host, waiting.deadline, certificate))?;
    let handler = &python.handlers[&*waiting.method];
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
