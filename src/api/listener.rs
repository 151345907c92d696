//! Where connections come from: a TCP port or a Unix socket.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

/// How many connections the kernel queues.
const BACKLOG: u32 = 1024;

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Over a port.
    Tcp,
    /// Through a Unix socket, which no browser opens.
    Unix,
}

/// Something that accepts connections.
pub(super) trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// How its connections come in.
    const DOOR: Door;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A TCP port.
#[derive(Debug)]
pub(super) struct Tcp {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Tcp {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::try_bind(address).map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}")))
    }

    fn try_bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart need not wait until the previous run's connections have timed out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
}

impl Listener for Tcp {
    type Stream = TcpStream;
    const DOOR: Door = Door::Tcp;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.listener.accept().await?;
        // Answers are small and awaited: none should wait for more data. If the connection is gone already, that shows elsewhere.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// A Unix socket, whose file is removed with it.
#[derive(Debug)]
pub(super) struct Unix {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    file: (u64, u64),
}

impl Unix {
    pub(super) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        Self::try_bind(path, mode).map_err(|error| io::Error::new(error.kind(), format!("can't listen on {}: {error}", path.display())))
    }

    fn try_bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Nobody can connect between bind and listen, so the permissions apply from the first connection on.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, path: path.to_owned(), file: identity(path)? })
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for Unix {
    type Stream = UnixStream;
    const DOOR: Door = Door::Unix;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes a socket that a process left behind when it died: one on which nobody answers. Anything else is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name which is not a socket"));
    }
    // A Unix socket accepts or refuses at once; one with a full backlog would block, and is in use.
    match UnixStream::connect(path).now_or_never() {
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is listening there")),
    }
}
