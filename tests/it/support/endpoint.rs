//! Shared by the tests of `http` and `command`: sources built from a configuration, and an HTTP server that shows what arrived.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender as Tell, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use redrive::fault::Fault;
use redrive::message::Message;
use redrive::outcome::Outcome;
use redrive::source::{Context, Registry, Sender, Source};
use serde_json::{Value, json};

/// How long a test waits for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A message with this payload and nothing else.
pub(crate) fn message(payload: impl Into<Bytes>) -> Message {
    let mut message = Message::new("crm", payload);
    message.project = "shop".into();
    message
}

/// Builds a source of a kind from its section and the common options.
pub(crate) fn build(kind: &str, section: Value, options: Value, folder: &Path) -> Result<Arc<dyn Source>, Vec<Fault>> {
    let mut cx = Context::new("shop", "crm");
    cx.options = serde_json::from_value(options).unwrap();
    cx.folder = folder.into();
    match Registry::default().build(kind, section, &cx)? {
        Sender::Each(source) => Ok(source),
        _ => panic!("{kind} does not take one message at a time"),
    }
}

/// The paths of the faults in a section.
pub(crate) fn faults(kind: &str, section: Value, options: Value) -> Vec<String> {
    let faults = build(kind, section, options, Path::new(".")).err().unwrap_or_default();
    for fault in &faults {
        assert!(!fault.to_string().contains("hunter2"), "a secret is repeated: {fault}");
    }
    faults.into_iter().map(|fault| fault.path).collect()
}

/// An `http` source that sends to a server, with more keys for its section.
pub(crate) fn http_to(server: &Server, more: &Value, options: Value) -> Arc<dyn Source> {
    let mut section = json!({ "url": server.url("/hook") });
    section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build("http", section, options, Path::new(".")).unwrap()
}

/// Class and code, for assertions.
pub(crate) fn said(outcome: &Outcome) -> (redrive::outcome::Class, &str) {
    (outcome.class, &outcome.code)
}

/// A request as it was on the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// The request line.
    pub(crate) line: String,
    /// Header lines, names in lower case; repeated ones are joined by a comma.
    pub(crate) headers: BTreeMap<String, String>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of a header, empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// How the server reacts to a request.
pub(crate) enum Reply {
    /// Writes these bytes and keeps the connection.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes the connection.
    Last(Vec<u8>),
    /// Writes these bytes and then nothing more, until the client goes.
    Stall(Vec<u8>),
}

/// An answer with this end of the status line, such as `200 OK`, and headers, each ended by CRLF.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes())
}

/// An HTTP server on loopback, hand-written, so that nothing is corrected or hidden on either side.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Mutex<Receiver<Request>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves every request by `reply`.
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, requests) = channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let (reply, count) = (Arc::new(reply), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (reply, tell) = (reply.clone(), tell.clone());
                std::thread::spawn(move || {
                    let halves = (stream.try_clone().unwrap(), stream);
                    serve(halves.0, &halves.1, &*reply, &tell);
                    let _ = halves.1.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, requests: Mutex::new(requests), connections }
    }

    /// The same on a Unix socket.
    pub(crate) fn start_unix(path: &Path, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Receiver<Request> {
        let listener = UnixListener::bind(path).unwrap();
        let (tell, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream.try_clone().unwrap(), &stream, &reply, &tell);
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        requests
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request that arrived.
    pub(crate) fn request(&self) -> Request {
        self.requests.lock().unwrap().recv_timeout(SOON).expect("a request")
    }

    /// All requests that arrived and were not looked at.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().try_iter().collect()
    }

    /// Whether a request arrived that was not looked at.
    pub(crate) fn has_request(&self) -> bool {
        self.requests.lock().unwrap().try_recv().is_ok()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Serves one connection, whatever it runs over.
pub(crate) fn serve(read: impl Read, mut write: impl Write, reply: &(impl Fn(&Request) -> Reply + ?Sized), tell: &Tell<Request>) {
    let mut read = BufReader::new(read);
    while let Some(request) = read_request(&mut read) {
        let reply = reply(&request);
        let _ = tell.send(request);
        let (bytes, goes_on, stalls) = match reply {
            Reply::Bytes(bytes) => (bytes, true, false),
            Reply::Last(bytes) => (bytes, false, false),
            Reply::Stall(bytes) => (bytes, false, true),
        };
        if write.write_all(&bytes).and_then(|()| write.flush()).is_err() {
            return;
        }
        if stalls {
            let _ = read.read(&mut [0; 1]);
        }
        if !goes_on {
            return;
        }
    }
}

fn read_request(read: &mut impl std::io::BufRead) -> Option<Request> {
    let mut request = Request::default();
    let mut line = String::new();
    read.read_line(&mut line).ok().filter(|count| *count > 0)?;
    line.trim_end().clone_into(&mut request.line);
    loop {
        let mut line = Vec::new();
        read.read_until(b'\n', &mut line).ok().filter(|count| *count > 0)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        let value = value.trim().to_owned();
        request.headers.entry(name.to_ascii_lowercase()).and_modify(|have| *have = format!("{have}, {value}")).or_insert(value);
    }
    request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    read.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// A port on which nobody listens.
pub(crate) fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that runs `act` on each connection.
pub(crate) fn raw_server(act: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(act));
    address
}
