//! How many files a node may have open.

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::folder;
use crate::support::endpoint::SOON;

/// A running node, which ends with the test.
struct Node {
    child: Child,
    /// Its log up to and including the line that it is listening.
    said: Vec<Value>,
    /// Not read any further, but kept open.
    _log: Lines<BufReader<ChildStderr>>,
    _folder: TempDir,
}

impl Node {
    /// Starts one under a limit set by the shell's `ulimit`.
    fn start(limit: &str) -> Self {
        let folder = folder("project: orders\nstore: { url: 'sqlite://t.db' }\napi: { listen: '127.0.0.1:0' }\nsources: { l: { kind: log } }\n");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit}; exec \"$0\" serve"), env!("CARGO_BIN_EXE_redrive")]);
        for variable in ["REDRIVE_CONFIG", "REDRIVE_LOG", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let mut child = command.current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said: Vec<Value> = Vec::new();
        while said.last().is_none_or(|line| line["message"] != "listening") {
            let line = log.next().expect("it listens before its log ends").unwrap();
            said.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        }
        Self { child, said, _log: log, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.said.last().unwrap()["api.address"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised() {
    let node = Node::start("-Sn 64");
    let mut held = Vec::new();
    for index in 0..150 {
        let mut stream = TcpStream::connect(node.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).unwrap_or_else(|error| panic!("connection {index}: {error}"));
        assert_eq!(begin, *b"HTTP/1.1 200 OK", "connection {index}");
        held.push(stream);
    }
}

#[test]
fn a_limit_that_can_not_be_raised_as_far_as_needed_is_told() {
    let node = Node::start("-n 200");
    let warns = |line: &&Value| line["message"] == "fewer files may be open than the configuration may use";
    let warning = node.said.iter().find(warns).unwrap_or_else(|| panic!("{:?}", node.said));
    assert_eq!(warning["level"], "WARN");
    // 1024 connections of producers, 8 to the store, and 100 for the rest.
    assert_eq!((&warning["files.limit"], &warning["files.needed"]), (&Value::from(200), &Value::from(1132)));
}
