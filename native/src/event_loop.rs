//! The I/O of one Python event loop: it runs on the loop's own thread, whenever the loop waits.

use std::future::pending;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Sockets and timers of the servers on one event loop; its `wait` takes the place of waiting for the loop's own files.
#[pyclass]
pub struct Io {
    runtime: Option<Runtime>,
    files: Option<AsyncFd<OwnedFd>>,
    stir: Arc<Notify>,
}

impl Io {
    pub fn runtime(&self) -> PyResult<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| PyRuntimeError::new_err("The event loop is closed."))
    }

    /// Return what ends a `wait`: a handler has run, and may have left something to do for the event loop.
    pub fn stir(&self) -> Arc<Notify> {
        self.stir.clone()
    }
}

#[pymethods]
impl Io {
    /// `descriptor` is open, and can be read when a file of the event loop is ready.
    #[new]
    fn new(descriptor: RawFd) -> PyResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // SAFETY: the caller's descriptor is open while it is duplicated.
        let ours: OwnedFd = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?;
        let files = {
            let _entered = runtime.enter();
            // SAFETY: it is ours alone, so it stays open until it is dropped with what is made here.
            unsafe { AsyncFd::register_with_interest(ours, Interest::READABLE) }.map_err(std::io::Error::from)?
        };
        Ok(Self { runtime: Some(runtime), files: Some(files), stir: Arc::default() })
    }

    /// Let all go on that can, and return as soon as the event loop may have something to do, or after so many seconds; None is for ever.
    ///
    /// Returns whether files of the loop have become ready. That is said once: whoever leaves some unread looks again before he waits.
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> bool {
        let (Some(runtime), Some(files)) = (&self.runtime, &self.files) else { return true };
        let timeout = seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
        py.detach(|| runtime.block_on(self.something_to_do(files, timeout)))
    }

    /// End everything that still goes on.
    fn close(&mut self) {
        self.files = None;
        self.runtime = None;
    }
}

impl Io {
    async fn something_to_do(&self, files: &AsyncFd<OwnedFd>, timeout: Option<Duration>) -> bool {
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            yield_now().await;
        }
        tokio::select! {
            biased;
            ready = files.readable() => {
                ready.map(|mut ready| ready.clear_ready()).ok();
                true
            }
            () = self.stir.notified() => false,
            () = passed(timeout) => false,
        }
    }
}

async fn passed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) if timeout.is_zero() => {}
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}
