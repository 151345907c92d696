//! `redrive health`, and the image that calls it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{PLAIN, code, command, done, err, folder, run};

#[test]
fn health_exits_by_the_answer() {
    let folder = folder(PLAIN);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/readyz", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for status in ["200 OK", "503 Service Unavailable"] {
            let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1"));
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    // A proxy in the environment must be ignored.
    let ask = |url: &str| code(&command(folder.path(), &["health", "--url", url]).env("http_proxy", "http://127.0.0.1:1").output().unwrap());
    assert_eq!([ask(&url), ask(&url)], [0, 1]);
    server.join().unwrap();
    assert_eq!(ask(&url), 1, "nobody answers");
    assert_eq!(ask("nonsense"), 2);
}

#[test]
fn health_asks_where_the_configuration_has_the_node_listen() {
    /// Answers one request; returns what it asked for.
    fn answer(mut stream: impl Read + Write) -> String {
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned()
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let configurations = [
        format!("health: {{ listen: '0.0.0.0:{port}' }}"),
        format!("health: {{ listen: '[::]:{port}' }}\napi: {{ listen: '127.0.0.1:1' }}"),
        format!("api: {{ listen: '0.0.0.0:{port}', token: t0ken }}"),
        format!("health: {{ listen: '127.0.0.1:0' }}\napi: {{ listen: '127.0.0.1:{port}' }}"),
    ];
    let expected = configurations.len();
    let server = std::thread::spawn(move || (0..expected).map(|_| answer(listener.accept().unwrap().0)).collect::<Vec<_>>());
    for configuration in configurations {
        let folder = folder(&format!("{PLAIN}{configuration}\n"));
        assert!(done(folder.path(), &["health"]).starts_with("200"), "{configuration}");
    }
    assert_eq!(server.join().unwrap(), ["GET /healthz HTTP/1.1"; 4]);

    let only_a_socket = folder(&format!("{PLAIN}api: {{ listen: ~, unix: it.sock }}\n"));
    let listener = std::os::unix::net::UnixListener::bind(only_a_socket.path().join("it.sock")).unwrap();
    let server = std::thread::spawn(move || answer(listener.accept().unwrap().0));
    done(only_a_socket.path(), &["health"]);
    assert_eq!(server.join().unwrap(), "GET /healthz HTTP/1.1");

    let any_port = folder(&format!("{PLAIN}api: {{ listen: '127.0.0.1:0' }}\n"));
    let output = run(any_port.path(), &["health"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--url"), "{}", err(&output));
}

#[test]
fn the_check_of_the_image_looks_at_the_process_alone_wherever_it_listens() {
    let check = include_str!("../../../Dockerfile").lines().skip_while(|line| !line.starts_with("HEALTHCHECK")).nth(1).unwrap();
    // Without --url it asks for /healthz.
    assert!(check.ends_with(r#"CMD ["redrive", "health"]"#), "{check}");
}

#[test]
fn the_image_has_a_first_process_that_buries_the_dead() {
    let image = include_str!("../../../Dockerfile").rsplit("\nFROM ").next().unwrap();
    assert!(image.lines().any(|line| line == r#"ENTRYPOINT ["tini", "-s", "--", "redrive"]"#), "{image}");
    let installed = image.lines().find(|line| line.contains("apt-get install")).unwrap();
    assert!(installed.split_whitespace().any(|package| package == "tini"), "{installed}");
}
