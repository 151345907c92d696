//! What the system knows about processes: their CPU, memory and sockets. Everything is `None` where it can't be seen.

use std::fs;
use std::path::Path;
use std::time::Duration;

use url::Url;

/// The kernel reports CPU time in ticks of this length on every architecture that matters.
const TICK: Duration = Duration::from_millis(10);
/// States of a socket in /proc/net/tcp.
const LISTEN: &str = "0A";
const ESTABLISHED: &str = "01";

/// The CPU time that a process has used.
pub(super) fn cpu(pid: u32) -> Option<Duration> {
    Some(Stat::of(pid)?.own)
}

/// The peak memory of a process, in bytes.
pub(super) fn rss_peak(pid: u32) -> Option<u64> {
    status(pid, "VmHWM:")
}

/// The present memory of a process, in bytes.
pub(super) fn rss(pid: u32) -> Option<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Fields of /proc/PID/stat.
struct Stat {
    name: String,
    parent: u32,
    own: Duration,
    /// CPU time of children that have ended.
    children: Duration,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name is in parentheses and may contain anything, including further parentheses.
        let (head, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
        Some(Self {
            name: head.split_once('(')?.1.to_owned(),
            parent: ticks(1)?,
            own: TICK * ticks(11)?.checked_add(ticks(12)?)?,
            children: TICK * ticks(13)?.checked_add(ticks(14)?)?,
        })
    }
}

/// A server on this machine: one process, or a parent with a child for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server(u32);

impl Server {
    /// The server whose child a process is, if both have this name.
    pub(super) fn parent_of(pid: u32, name: &str) -> Option<Self> {
        let child = Stat::of(pid).filter(|stat| stat.name == name)?;
        Stat::of(child.parent).filter(|stat| stat.name == name)?;
        Some(Self(child.parent))
    }

    /// The process that listens on a port, if it has one of these names (the system keeps 15 characters): in front of a server in a container there
    /// is a proxy, whose CPU says nothing.
    pub(super) fn listening(port: u16, names: &[&str]) -> Option<Self> {
        let inodes: Vec<String> =
            sockets().into_iter().filter(|socket| socket.state == LISTEN && socket.local == port).map(|socket| socket.inode).collect();
        if inodes.is_empty() {
            return None;
        }
        let is_one = |pid: u32| Stat::of(pid).is_some_and(|stat| names.contains(&stat.name.as_str()));
        pids().find(|pid| is_one(*pid) && inodes_of(*pid).iter().any(|inode| inodes.contains(inode))).map(Self)
    }

    /// The CPU time that the server and its children have used since it started.
    pub(super) fn cpu(self) -> Option<Duration> {
        let own = Stat::of(self.0)?;
        let children = pids().filter_map(Stat::of).filter(|stat| stat.parent == self.0);
        Some(children.fold(own.own + own.children, |sum, child| sum + child.own))
    }
}

/// The number of connections of a process to one of these ports.
pub(super) fn connections(pid: u32, port: u16) -> u64 {
    let inodes = inodes_of(pid);
    sockets().iter().filter(|socket| socket.state == ESTABLISHED && socket.remote == port && inodes.contains(&socket.inode)).count() as u64
}

/// The port of a server's URL, if it is on this machine.
pub(super) fn local_port(url: &str, usual: u16) -> Option<u16> {
    let url = Url::parse(url).ok()?;
    is_local(url.host_str()?).then(|| url.port().unwrap_or(usual))
}

/// Whether a host is this machine.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

struct Socket {
    local: u16,
    remote: u16,
    state: String,
    inode: String,
}

fn sockets() -> Vec<Socket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| text.lines().filter_map(socket).collect::<Vec<_>>())
        .collect()
}

fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = |index: usize| u16::from_str_radix(fields.get(index)?.rsplit_once(':')?.1, 16).ok();
    Some(Socket { local: port(1)?, remote: port(2)?, state: (*fields.get(3)?).to_owned(), inode: (*fields.get(9)?).to_owned() })
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The sockets that a process holds.
fn inodes_of(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = Stat::parse("17 (a) b) S 3 17 17 0 -1 4194304 1 2 3 4 150 50 7 3 20 0 1 0 1 1 1").unwrap();
        assert_eq!((stat.name.as_str(), stat.parent), ("a) b", 3));
        assert_eq!((stat.own, stat.children), (Duration::from_secs(2), Duration::from_millis(100)));
        assert!(Stat::parse("nonsense").is_none());
    }

    #[test]
    fn this_process_sees_itself() {
        let own = std::process::id();
        assert!(cpu(own).is_some() && rss_peak(own).unwrap() >= rss(own).unwrap() / 2);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = Stat::of(own).unwrap().name;
        assert_eq!(Server::listening(port, &["postgres", name.as_str()]), Some(Server(own)));
        assert_eq!(Server::listening(port, &["postgres"]), None, "it may be a proxy");
        assert_eq!(connections(own, port), 0);
        let _stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(connections(own, port), 1);
    }

    #[test]
    fn only_servers_of_this_machine_have_a_local_port() {
        assert_eq!(local_port("postgres://u:p@127.0.0.1/db", 5432), Some(5432));
        assert_eq!(local_port("mysql://[::1]:3307/db", 3306), Some(3307));
        assert_eq!(local_port("postgres://db.example/db", 5432), None);
    }
}
