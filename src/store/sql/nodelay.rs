//! `TCP_NODELAY` on the connections to the database. sqlx 0.9.0 dropped it (sqlx issue 4335, fixed after that release), and it neither accepts a
//! socket nor exposes its own. Without the option, a statement of more than one segment, or of more than one TLS record, waits up to 40 ms for the
//! server's delayed acknowledgement (RFC 1122, 4.2.3.2 and 4.2.3.4). To be deleted with the next sqlx.

use std::net::TcpStream;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

/// The pauses, in milliseconds, between setting the option again and again while a connection is being made: the TLS handshake suffers most.
const STEPS_MS: [u64; 6] = [1, 1, 2, 4, 8, 16];

/// Connects to this port, with the option set from the connection's first milliseconds on.
pub(crate) async fn connect<C, E>(port: u16, connecting: impl Future<Output = Result<C, E>>) -> Result<C, E> {
    let early = async {
        for step in STEPS_MS {
            tokio::time::sleep(Duration::from_millis(step)).await;
            apply(port);
        }
        std::future::pending().await
    };
    let connection = tokio::select! {
        connection = connecting => connection?,
        never = early => never,
    };
    apply(port);
    Ok(connection)
}

/// Sets the option on every TCP socket of this process whose peer has this port; setting it again, or on an unrelated socket, does no harm.
#[cfg(target_os = "linux")]
fn apply(port: u16) {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in descriptors.filter_map(Result::ok) {
        let socket = std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        if let (true, Some(descriptor)) = (socket, entry.file_name().to_str().and_then(|name| name.parse().ok())) {
            set(descriptor, port);
        }
    }
}

/// Where the kernel does not list a process's sockets.
#[cfg(not(target_os = "linux"))]
fn apply(_: u16) {}

#[cfg(target_os = "linux")]
fn set(descriptor: RawFd, port: u16) {
    // SAFETY: the descriptor is borrowed only for the call that duplicates it. If its owner closes it at that moment, the call fails or duplicates
    // another file of this process, and neither is read, written or closed here.
    #[expect(unsafe_code, reason = "sqlx does not give its sockets out")]
    let Ok(own) = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned() else { return };
    let stream = TcpStream::from(own);
    if stream.peer_addr().is_ok_and(|peer| peer.port() == port) {
        // If this fails, it was not a socket of ours, or is closed already.
        let _ = stream.set_nodelay(true);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_sockets_to_a_port_and_no_others() {
        let [here, elsewhere] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [ours, other] = [&here, &elsewhere].map(|server| TcpStream::connect(server.local_addr().unwrap()).unwrap());
        apply(here.local_addr().unwrap().port());
        assert!(ours.nodelay().unwrap());
        assert!(!other.nodelay().unwrap());
    }
}
