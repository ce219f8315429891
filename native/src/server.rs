//! One server: it listens, keeps connections within their limits, and drains them at the end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::queue::{Peer, locked};
use crate::service::{Connection, Phase, Shared, serve};
use crate::tls::{Certificates, name_in};
use crate::together::{Together, Turn};

/// How much a server takes.
#[derive(Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    pub streams: u32,
    pub metadata: u32,
    pub handshake: Duration,
    pub idle: Duration,
    pub age: Duration,
    pub keepalive: Duration,
    pub keepalive_timeout: Duration,
}

const PREFACE: usize = 24;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Bind a port that other processes of the server bind too; the kernel spreads connections.
pub fn bind(host: &str, port: u16) -> io::Result<std::net::TcpListener> {
    let ip: IpAddr = match host.trim_matches(['[', ']']) {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        bare => bare.parse().map_err(io::Error::other)?,
    };
    let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(ip, port).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serve until the phase says otherwise; in the end, calls in flight have so long as the drain says.
pub async fn run(
    listener: TcpListener, tls: Option<Arc<Certificates>>, shared: Arc<Shared>, limits: Limits,
    phase: Arc<watch::Sender<Phase>>, mut drain: watch::Receiver<Option<Duration>>,
) {
    let mut connections = JoinSet::new();
    let open = Arc::new(AtomicUsize::new(0));
    let mut asked = pin!(async move { drain.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default() });
    let grace = loop {
        tokio::select! {
            biased;
            grace = asked.as_mut() => break grace,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => accept(&mut connections, stream, address, &tls, &shared, limits, &open),
                Err(_) => sleep(Duration::from_millis(10)).await, // out of descriptors: some will be closed
            },
        }
    };
    let until = Instant::now() + grace;
    while let Ok(Ok((stream, address))) = timeout(Duration::ZERO, listener.accept()).await {
        accept(&mut connections, stream, address, &tls, &shared, limits, &open); // they were waiting already
    }
    drop(listener);
    phase.send_replace(Phase::Draining);
    let _ = timeout_at(until, all_answered(&shared)).await;
    phase.send_replace(Phase::Ended);
    let _ = timeout_at(until.max(Instant::now() + LAST_WORDS), async { while connections.join_next().await.is_some() {} }).await;
}

async fn all_answered(shared: &Shared) {
    loop {
        let mut idle = pin!(shared.idle.notified());
        idle.as_mut().enable();
        if shared.in_flight.load(Ordering::Acquire) == 0 {
            return;
        }
        idle.await;
    }
}

fn accept(
    connections: &mut JoinSet<()>, stream: TcpStream, address: SocketAddr, tls: &Option<Arc<Certificates>>,
    shared: &Arc<Shared>, limits: Limits, open: &Arc<AtomicUsize>,
) {
    if open.load(Ordering::Relaxed) >= limits.connections {
        return; // closed at once, so that the client tries elsewhere
    }
    let (tls, shared, counted) = (tls.clone(), shared.clone(), Counted::begin(open));
    connections.spawn(async move {
        let _counted = counted;
        let _ = stream.set_nodelay(true);
        let host = address.ip().to_canonical().to_string();
        match tls {
            None => talk(stream, Peer::new(host, String::new()), shared, limits).await,
            Some(certificates) => {
                let acceptor = TlsAcceptor::from(certificates.current());
                if let Ok(Ok(secured)) = timeout(limits.handshake, acceptor.accept(stream)).await {
                    let chain = secured.get_ref().1.peer_certificates();
                    let name = chain.and_then(|chain| chain.first()).map(|first| name_in(first)).unwrap_or_default();
                    talk(secured, Peer::new(host, name), shared, limits).await;
                }
            }
        }
    });
}

/// A connection as a part of how many there may be, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn begin(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serve one connection until it ends, is idle or old for too long, or the server drains.
async fn talk<T: AsyncRead + AsyncWrite + Unpin>(stream: T, peer: Peer, shared: Arc<Shared>, limits: Limits) {
    let greeted = Arc::new(AtomicBool::new(false));
    let stream = Together::new(Greeted { stream, left: PREFACE, greeted: greeted.clone() });
    let (gathered, counting) = (stream.gathered(), stream.gathered());
    let mut phase = shared.phase.clone();
    let connection = Arc::new(Connection {
        shared, peer: Arc::new(peer), calls: AtomicUsize::new(0), active: AtomicUsize::new(0),
    });
    let calls = connection.clone();
    let http = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.metadata)
            // A caller resets a stream for each late or cancelled call: that many at once are no attack.
            .max_pending_accept_reset_streams(limits.streams as usize)
            .max_local_error_reset_streams(4 * limits.streams as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(limits.keepalive)
            .keep_alive_timeout(limits.keepalive_timeout)
            .serve_connection(TokioIo::new(stream), service_fn(move |request| serve(calls.clone(), request)))
    );
    let written = || locked(&counting).sent();
    let mut talking = Turn { gathered, work: http };
    let mut leave = pin!(async {
        tokio::select! {
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => false,
            () = no_greeting(&greeted, limits.handshake) => true,
            () = unused(&connection, limits.idle) => false,
            () = sleep(limits.age) => false,
        }
    });
    let broken = tokio::select! {
        _ = &mut talking => return,
        broken = leave.as_mut() => broken,
    };
    if !broken {
        talking.work.as_mut().graceful_shutdown();
        let mut phase = connection.shared.phase.clone();
        tokio::select! {
            _ = &mut talking => {}
            () = ended(&mut phase, &written) => {}
            () = silent(&connection, limits.keepalive_timeout, &written) => {}
        }
    }
}

/// Wait for the end of the server, and until nothing more of its last words, and of answers on their way, is written.
async fn ended(phase: &mut watch::Receiver<Phase>, written: &impl Fn() -> u64) {
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    still(LAST_WORDS, written).await;
}

/// Wait until a peer that was asked to leave has no call left, takes no more of an answer, and had time to say that it understood.
async fn silent(connection: &Connection, patience: Duration, written: &impl Fn() -> u64) {
    loop {
        still(patience, written).await;
        if connection.active.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// Wait until nothing was written for so long.
async fn still(patience: Duration, written: &impl Fn() -> u64) {
    loop {
        let before = written();
        sleep(patience).await;
        if written() == before {
            return;
        }
    }
}

async fn no_greeting(greeted: &AtomicBool, patience: Duration) {
    sleep(patience).await;
    if greeted.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Wait until nothing was called for so long.
async fn unused(connection: &Connection, patience: Duration) {
    let mut seen = 0;
    loop {
        sleep(patience).await;
        let calls = connection.calls.load(Ordering::Relaxed);
        if calls == seen && connection.active.load(Ordering::Relaxed) == 0 {
            return;
        }
        seen = calls;
    }
}

/// A stream that says when the first bytes of HTTP/2 have come.
struct Greeted<T> {
    stream: T,
    left: usize,
    greeted: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if self.left > 0 {
            self.left = self.left.saturating_sub(buffer.filled().len() - before);
            if self.left == 0 {
                self.greeted.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
