//! The fast transport of featurestore: unary gRPC over HTTP/2, handed to Python as bytes. No logic of the store is here.
//!
//! One I/O thread (tokio, hyper, rustls) reads requests and writes answers; handlers run on Python's event loop alone, so that they
//! never run at once. `featurestore.serving.native` is the only user.

mod protocol;
mod queue;
mod server;
mod service;
mod tls;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::queue::{Admission, Python3, Queue, locked};
use crate::server::{Limits, bind, run};
use crate::service::{Phase, Shared};
use crate::tls::Certificates;

/// A server of some handlers; made, started, turned by an event loop, and drained.
#[pyclass(frozen)]
struct Server {
    python: Python3,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    limits: Limits,
    phase: Arc<watch::Sender<Phase>>,
    drain: watch::Sender<Option<Duration>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Server {
    /// Durations are in seconds, sizes in bytes; `held` names the methods of `handlers` whose calls stay open, and `later` is given each
    /// awaitable that a handler returns, with a function for its result. `admission` is None, or the methods that it is asked about, what
    /// returns the reply of a call that is not taken on, and what is told how long calls wait.
    #[new]
    #[pyo3(signature = (handlers, *, held, call, reply, later, admission, elsewhere, max_message, max_arriving, max_calls, max_connections, max_streams,
        max_metadata, handshake, idle, age, keepalive, keepalive_timeout))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        handlers: HashMap<String, Py<PyAny>>, held: HashSet<String>, call: Py<PyAny>, reply: Py<PyAny>, later: Py<PyAny>,
        admission: Option<(HashSet<String>, Py<PyAny>, Py<PyAny>)>, elsewhere: String, max_message: usize, max_arriving: usize, max_calls: usize, max_connections: usize, max_streams: u32,
        max_metadata: u32, handshake: f64, idle: f64, age: f64, keepalive: f64, keepalive_timeout: f64,
    ) -> PyResult<Self> {
        let queue = Arc::new(Queue::new()?);
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let names = |wanted: bool| {
            handlers.keys().filter(|name| held.contains(*name) == wanted).map(|name| Arc::from(name.as_str())).collect()
        };
        let shared = Arc::new(Shared {
            queue: queue.clone(),
            methods: names(false),
            held: names(true),
            elsewhere,
            max_message,
            max_arriving,
            max_calls,
            arriving: AtomicUsize::new(0),
            phase: phase_seen,
            in_flight: AtomicUsize::new(0),
            idle: Notify::new(),
        });
        let limits = Limits {
            connections: max_connections,
            streams: max_streams,
            metadata: max_metadata,
            handshake: Duration::from_secs_f64(handshake),
            idle: Duration::from_secs_f64(idle),
            age: Duration::from_secs_f64(age),
            keepalive: Duration::from_secs_f64(keepalive),
            keepalive_timeout: Duration::from_secs_f64(keepalive_timeout),
        };
        Ok(Self {
            python: Python3 {
                handlers,
                call,
                reply,
                later,
                admission: admission.map(|(methods, refused, note)| Admission { methods, refused, note }),
            },
            queue,
            shared,
            limits,
            phase: Arc::new(phase),
            drain: watch::channel(None).0,
            thread: Mutex::new(None),
        })
    }

    /// Listen on a port, 0 for a free one, and return it; `tls` names the files of certificate, key and client authority.
    fn start(&self, host: &str, port: u16, tls: Option<(PathBuf, PathBuf, Option<PathBuf>)>) -> PyResult<u16> {
        let listener = bind(host, port).map_err(|error| PyOSError::new_err(format!("{host}:{port}: {error}")))?;
        let port = listener.local_addr()?.port();
        let tls = tls.map(|(certificate, key, ca)| Certificates::open(certificate, key, ca)).transpose()?.map(Arc::new);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (shared, limits) = (self.shared.clone(), self.limits);
        let (phase, drain) = (self.phase.clone(), self.drain.subscribe());
        let thread = std::thread::Builder::new().name("native-io".into()).spawn(move || {
            runtime.block_on(async move {
                if let Ok(listener) = TcpListener::from_std(listener) {
                    run(listener, tls, shared, limits, phase, drain).await;
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        *locked(&self.thread) = Some(thread);
        Ok(port)
    }

    /// The descriptor that is readable when `turn` has something to do.
    fn fileno(&self) -> i32 {
        self.queue.descriptor()
    }

    /// Run the handlers of what has arrived; called by the event loop, from its thread alone.
    fn turn(&self, py: Python<'_>) {
        self.queue.turn(py, &self.python);
    }

    /// Take no more calls, wait until those in flight are answered, at most so many seconds, and stop. Call it off the event loop,
    /// which must go on turning.
    fn drain(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.drain.send_replace(Some(Duration::from_secs_f64(seconds)));
        let Some(thread) = locked(&self.thread).take() else { return Ok(()) };
        py.detach(|| thread.join()).map_err(|_| PyRuntimeError::new_err("The I/O thread panicked."))
    }
}

#[pymodule]
fn featurestore_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Server>()
}
