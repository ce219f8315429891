//! The fast transport of featurestore: unary gRPC over HTTP/2, handed to Python as bytes. No logic of the store is here.
//!
//! There is one thread for all: while Python's event loop waits for its files, tokio and hyper go on in its place, and handlers are called
//! from there. So a call changes no thread, and handlers never run at once. `featurestore.serving.native` is the only user.

mod event_loop;
mod protocol;
mod queue;
mod server;
mod service;
mod tls;
mod together;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::event_loop::Io;
use crate::queue::{Admission, Method, Python3, Queue};
use crate::server::{Limits, bind, run};
use crate::service::{Phase, Shared};
use crate::tls::Certificates;

/// A server of some handlers; made, started on the I/O of an event loop, and drained.
#[pyclass(frozen)]
struct Server {
    python: Arc<Python3>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    limits: Limits,
    phase: Arc<watch::Sender<Phase>>,
    drain: watch::Sender<Option<Duration>>,
}

#[pymethods]
impl Server {
    /// Durations are in seconds, sizes in bytes; `held` names the methods of `handlers` whose calls stay open, and `later` is given each
    /// awaitable that a handler returns, with a function for its result. `admission` is None, or the methods that it is asked about, what
    /// returns the reply of a call that is not taken on, and what is told how long calls wait and says whether the other is to be asked.
    #[new]
    #[pyo3(signature = (handlers, *, held, call, reply, later, admission, elsewhere, max_message, max_arriving, max_calls, max_connections, max_streams,
        max_metadata, handshake, idle, age, keepalive, keepalive_timeout))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>, handlers: HashMap<String, Py<PyAny>>, held: HashSet<String>, call: Py<PyAny>, reply: Py<PyAny>, later: Py<PyAny>,
        admission: Option<(HashSet<String>, Py<PyAny>, Py<PyAny>)>, elsewhere: String, max_message: usize, max_arriving: usize, max_calls: usize, max_connections: usize, max_streams: u32,
        max_metadata: u32, handshake: f64, idle: f64, age: f64, keepalive: f64, keepalive_timeout: f64,
    ) -> PyResult<Self> {
        let queue = Arc::new(Queue::default());
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let is_asked = |name: &String| admission.as_ref().is_some_and(|(methods, ..)| methods.contains(name));
        let methods = handlers.into_iter().map(|(name, handler)| {
            let (held, at_once) = (held.contains(&name), is_asked(&name));
            let method = Method { name: PyString::intern(py, &name).unbind(), handler, held, at_once };
            (name, Arc::new(method))
        });
        let shared = Arc::new(Shared {
            queue: queue.clone(),
            methods: methods.collect(),
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
            python: Arc::new(Python3 {
                call,
                reply,
                later,
                admission: admission.map(|(_, refused, note)| Admission { refused, note }),
            }),
            queue,
            shared,
            limits,
            phase: Arc::new(phase),
            drain: watch::channel(None).0,
        })
    }

    /// Listen on a port, 0 for a free one, and return it; `tls` names the files of certificate, key and client authority, and `ended` is
    /// called when the server has come to its end.
    fn start(
        &self, io: &Io, host: &str, port: u16, tls: Option<(PathBuf, PathBuf, Option<PathBuf>)>, ended: Py<PyAny>,
    ) -> PyResult<u16> {
        let listener = bind(host, port).map_err(|error| PyOSError::new_err(format!("{host}:{port}: {error}")))?;
        let port = listener.local_addr()?.port();
        let tls = tls.map(|(certificate, key, ca)| Certificates::open(certificate, key, ca)).transpose()?.map(Arc::new);
        let runtime = io.runtime()?;
        let (shared, limits, stir) = (self.shared.clone(), self.limits, io.stir());
        let (phase, drain) = (self.phase.clone(), self.drain.subscribe());
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let answering = runtime.spawn(self.queue.clone().answer_all(self.python.clone(), stir.clone()));
        runtime.spawn(async move {
            run(listener, tls, shared, limits, phase, drain).await;
            answering.abort();
            Python::attach(|py| ended.call0(py).map_err(|error| error.write_unraisable(py, None)).ok());
            stir.notify_one();
        });
        Ok(port)
    }

    /// Take no more calls, wait until those in flight are answered, at most so many seconds, and end.
    fn drain(&self, seconds: f64) {
        self.drain.send_replace(Some(Duration::from_secs_f64(seconds)));
    }
}

#[pymodule]
fn featurestore_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Io>()?;
    module.add_class::<Server>()
}
