mod limits;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{any, get};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::super::answer;
use super::*;
use crate::units::{Secret, Size, Span};

/// A server whose router reports what it received, and can be made to wait.
struct Running {
    address: SocketAddr,
    health: SocketAddr,
    stop: CancellationToken,
    /// Lets a request to `/wait` proceed.
    release: Arc<Notify>,
    waiting: Arc<AtomicUsize>,
    /// Permits that an answer of `/held` holds until it is written.
    readers: Arc<Semaphore>,
    task: JoinHandle<()>,
}

fn quick() -> Config {
    let second = Span::secs(1);
    Config { listen: Some(([127, 0, 0, 1], 0).into()), header_timeout: second, body_timeout: second, max_body: Size::mib(1), ..Config::default() }
}

#[allow(clippy::needless_pass_by_value, reason = "each test makes its own")]
fn start(config: Config, grace: Duration) -> Running {
    let bound = Server::bind(&config, &Health { listen: Some(([127, 0, 0, 1], 0).into()) }).unwrap();
    let (release, waiting) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (release.clone(), waiting.clone());
    let wait = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        gate.notified().await;
        "waited"
    };
    let echo = async |request: Request| request.into_body().collect().await.unwrap().to_bytes().len().to_string();
    let large = async || Body::from(vec![b'x'; 32 << 20]);
    let readers = Arc::new(Semaphore::new(1));
    let held = {
        let readers = readers.clone();
        move || async move {
            let permit = readers.acquire_owned().await.unwrap();
            answer::holding(axum::response::Response::new(Body::from(vec![b'x'; 32 << 20])), permit)
        }
    };
    let open = Router::new().route("/healthz", get(async || "ok"));
    let router = open.clone().route("/wait", any(wait)).route("/size", any(echo)).route("/large", get(large)).route("/held", get(held));
    let stop = CancellationToken::new();
    let (address, health) = (bound.address().unwrap_or(([0, 0, 0, 0], 0).into()), bound.health_address().unwrap());
    let api = Gate::new(Routes::of(router), api_limits(&config));
    let task = tokio::spawn(bound.run(api, Gate::new(Routes::of(open), HEALTH_LIMITS), stop.clone(), grace));
    Running { address, health, stop, release, waiting, readers, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> String {
        ask(self.connect().await, request).await
    }

    /// Waits until this many requests are in their handler.
    async fn until_waiting(&self, count: usize) {
        while self.waiting.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }
}

/// Sends a request and reads one answer: its head, and as much of the body as it announces.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return whole;
            }
        }
        if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
}

/// Reads to the end, which may also be a reset.
async fn ended(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

async fn within<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), work).await.expect("in time")
}

const GET: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn a_connection_serves_many_requests_and_a_body_arrives_however_it_is_cut() {
    let running = start(quick(), Duration::from_secs(1));
    let mut stream = running.connect().await;
    stream.write_all(b"POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\r\nabc").await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(b"def").await.unwrap();
    assert!(within(5, answer(&mut stream)).await.ends_with("\r\n\r\n6"));
    let chunked = "POST /size HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).await.unwrap();
    assert!(within(5, answer(&mut stream)).await.ends_with("\r\n\r\n7"));
    let large = "x".repeat(700_000);
    assert!(running.ask(&format!("POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 700000\r\n\r\n{large}")).await.ends_with("700000"));
}

#[tokio::test]
async fn the_token_is_asked_for_everywhere_but_at_health() {
    let running = start(Config { token: Some(Secret::new("s3cret")), ..quick() }, Duration::from_secs(1));
    assert_eq!(status(&running.ask(GET).await), "200");
    for shown in ["", "authorization: Bearer wrong!\r\n", "authorization: s3cret\r\n", "authorization: Bearer s3cretx\r\n"] {
        for path in ["/size", "/nothing", "/healthz/", "//healthz"] {
            let answer = running.ask(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{shown}\r\n")).await;
            assert_eq!(status(&answer), "401", "{path} {shown}");
            assert!(answer.contains("www-authenticate: Bearer") && !answer.contains("s3cret"), "{answer}");
        }
    }
    let answer = running.ask("GET /size HTTP/1.1\r\nhost: localhost\r\nauthorization: bearer s3cret\r\n\r\n").await;
    assert_eq!(status(&answer), "200", "{answer}");
}

#[tokio::test]
async fn a_web_page_of_another_site_is_refused_where_there_is_no_token() {
    let running = start(quick(), Duration::from_secs(1));
    let from = |origin: &str| format!("POST /size HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(status(&running.ask(&from("https://evil.example")).await), "403");
    assert_eq!(status(&running.ask(&from("http://localhost:3000")).await), "200");
    // A page whose name was made to point here can send anything it likes, except another `Host`.
    let rebound = "POST /size HTTP/1.1\r\nhost: evil.example:8087\r\nuser-agent: curl/8.0\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(status(&running.ask(rebound).await), "403");
    assert_eq!(status(&running.ask(&GET.replace("localhost", "evil.example")).await), "200", "health is open");
    let guarded = start(Config { token: Some(Secret::new("s3cret")), ..quick() }, Duration::from_secs(1));
    let shown = from("https://app.example").replace("origin", "authorization: Bearer s3cret\r\norigin");
    assert_eq!(status(&guarded.ask(&shown).await), "200");
}

#[tokio::test]
async fn the_health_port_serves_health_and_nothing_else() {
    let running = start(Config { token: Some(Secret::new("s3cret")), ..quick() }, Duration::from_secs(1));
    let ask = async |request: &str| ask(TcpStream::connect(running.health).await.unwrap(), request).await;
    assert_eq!(status(&ask(GET).await), "200");
    assert_eq!(status(&ask("GET /size HTTP/1.1\r\nhost: localhost\r\nauthorization: bearer s3cret\r\n\r\n").await), "404");
}

#[tokio::test]
async fn who_has_shut_down_the_writing_side_still_gets_the_answer() {
    let running = start(quick(), Duration::from_secs(1));
    let mut stream = running.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    running.until_waiting(1).await;
    stream.shutdown().await.unwrap();
    // The next request is processed after the end of that stream was, however long that takes to arrive.
    assert_eq!(status(&running.ask("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await), "200");
    running.release.notify_one();
    let all = within(5, ended(stream)).await;
    assert!(all.starts_with(b"HTTP/1.1 200") && all.ends_with(b"waited"), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test]
async fn at_the_end_requests_under_way_finish_and_half_sent_ones_do_not_hold_it_up() {
    let running = start(Config { header_timeout: Span::secs(60), body_timeout: Span::secs(60), ..quick() }, Duration::from_secs(30));
    let idle = running.connect().await;
    let mut used = running.connect().await;
    used.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(status(&answer(&mut used).await), "200");
    let mut half_head = running.connect().await;
    half_head.write_all(b"POST /size HTTP/1.1\r\nhost").await.unwrap();
    let mut half_body = running.connect().await;
    half_body.write_all(b"POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc").await.unwrap();
    let busy = tokio::spawn(ask(running.connect().await, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    running.until_waiting(1).await;
    running.stop.cancel();
    for stream in [idle, used, half_head] {
        within(5, ended(stream)).await;
    }
    let told = String::from_utf8(within(5, ended(half_body)).await).unwrap();
    assert!(status(&told) == "503" && told.contains(r#""code":"draining""#) && told.contains("connection: close"), "{told}");
    assert!(TcpStream::connect(running.address).await.is_err(), "it accepts no more");
    running.release.notify_one();
    let text = within(5, busy).await.unwrap();
    assert!(text.ends_with("waited") && text.contains("connection: close"), "{text}");
    within(5, running.task).await.unwrap();
}

#[tokio::test]
async fn at_the_end_of_its_grace_everything_is_cut() {
    let running = start(quick(), Duration::from_millis(200));
    let busy = tokio::spawn(ask(running.connect().await, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    running.until_waiting(1).await;
    running.stop.cancel();
    within(5, running.task).await.unwrap();
    assert_eq!(within(5, busy).await.unwrap(), "");
}

#[tokio::test]
async fn dropping_the_server_cuts_everything() {
    let running = start(quick(), Duration::from_secs(60));
    let busy = tokio::spawn(ask(running.connect().await, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    running.until_waiting(1).await;
    running.task.abort();
    assert_eq!(within(5, busy).await.unwrap(), "");
}

#[tokio::test]
async fn a_unix_socket_serves_the_same_with_its_own_permissions_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redrive.sock");
    let config = Config { listen: None, unix: Some(path.clone()), ..quick() };
    let running = start(config.clone(), Duration::from_secs(1));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(status(&within(5, ask(UnixStream::connect(&path).await.unwrap(), GET)).await), "200");
    // While it is served, nobody else can take it.
    assert_eq!(Server::bind(&config, &Health::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert!(path.exists());
    running.stop.cancel();
    within(5, running.task).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redrive.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as a process leaves it that was killed");
    let config = Config { listen: None, unix: Some(path.clone()), ..quick() };
    let running = start(config.clone(), Duration::from_secs(1));
    assert_eq!(status(&within(5, ask(UnixStream::connect(&path).await.unwrap(), GET)).await), "200");
    // A later process's socket of the same name is not removed by ours.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    running.stop.cancel();
    within(5, running.task).await.unwrap();
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = Server::bind(&config, &Health::default()).unwrap_err();
    assert!(error.to_string().contains("redrive.sock"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_at_once_and_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { listen: Some(taken.local_addr().unwrap()), ..quick() };
    let error = Server::bind(&config, &Health::default()).unwrap_err();
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}
