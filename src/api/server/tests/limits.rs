//! How many connections and how large heads and bodies may be, and how long each may take.

use super::*;

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let running = start(quick(), Duration::from_secs(1));
    for sent in ["", "GET", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut stream = running.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        within(5, ended(stream)).await;
    }
    // The next request of a connection has the same limit.
    let mut stream = running.connect().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(status(&within(5, answer(&mut stream)).await), "200");
    within(5, ended(stream)).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_answered_408() {
    let running = start(quick(), Duration::from_secs(1));
    let mut stream = running.connect().await;
    stream.write_all(b"POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc").await.unwrap();
    let text = within(5, answer(&mut stream)).await;
    assert_eq!(status(&text), "408", "{text}");
    assert!(text.contains(r#""code":"request_timeout""#), "{text}");
    within(5, ended(stream)).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_dropped() {
    let running = start(Config { max_connections: 1, ..quick() }, Duration::from_secs(1));
    let mut lazy = running.connect().await;
    lazy.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // There is only one slot: another client is served only once the lazy one has lost it.
    assert_eq!(status(&within(10, running.ask(GET)).await), "200");
    assert!(within(10, ended(lazy)).await.len() < 32 << 20);
}

#[tokio::test]
async fn what_an_answer_holds_it_holds_until_it_is_written() {
    let running = start(quick(), Duration::from_secs(1));
    let mut stream = running.connect().await;
    stream.write_all(b"GET /held HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    within(5, stream.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(running.readers.available_permits(), 0, "most of it is still in memory");
    within(10, ended(stream)).await;
    let _free = within(5, running.readers.acquire()).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_takes_its_time_is_not_cut_short() {
    let running = start(quick(), Duration::from_secs(1));
    let release = running.release.clone();
    let asked = tokio::spawn(ask(running.connect().await, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    running.until_waiting(1).await;
    // Longer than a head, a body and an answer may take.
    sleep(Duration::from_millis(2500)).await;
    release.notify_one();
    assert!(within(5, asked).await.unwrap().ends_with("waited"));
}

#[tokio::test]
async fn over_the_limit_connections_wait_and_are_served_later() {
    let running = start(Config { max_connections: 2, ..quick() }, Duration::from_secs(1));
    let wait = "GET /wait HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let asked: Vec<_> = futures::future::join_all((0..5).map(|_| running.connect())).await;
    let asked: Vec<_> = asked.into_iter().map(|stream| tokio::spawn(ask(stream, wait))).collect();
    running.until_waiting(2).await;
    assert_eq!(status(&ask(TcpStream::connect(running.health).await.unwrap(), GET).await), "200", "health has its own");
    assert_eq!(running.waiting.load(Ordering::SeqCst), 2);
    for served in 1..=5 {
        running.release.notify_one();
        running.until_waiting((served + 2).min(5)).await;
    }
    for answer in asked {
        assert!(within(5, answer).await.unwrap().ends_with("waited"));
    }
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out_and_those_at_work_stay() {
    let running = start(Config { max_connections: 4, header_timeout: Span::secs(60), ..quick() }, Duration::from_secs(1));
    let busy = tokio::spawn(ask(running.connect().await, "GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    running.until_waiting(1).await;
    let mut used = running.connect().await;
    used.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(status(&within(5, answer(&mut used)).await), "200");
    let silent = running.connect().await;
    let mut half = running.connect().await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    // They stay open too.
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = running.connect().await;
        other.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(status(&within(5, answer(&mut other)).await), "200");
        others.push(other);
    }
    for left in [used, silent, half] {
        within(5, ended(left)).await;
    }
    running.release.notify_one();
    assert!(within(5, busy).await.unwrap().ends_with("waited"), "it was at work all the time");
    let mut idle = Vec::new();
    for _ in 0..HEALTH_CONNECTIONS {
        idle.push(TcpStream::connect(running.health).await.unwrap());
    }
    assert_eq!(status(&within(5, ask(TcpStream::connect(running.health).await.unwrap(), GET)).await), "200", "nor out of the health port");
}

#[tokio::test]
async fn a_body_that_is_announced_and_does_not_come_keeps_nobody_out_who_has_no_token() {
    let config = Config { token: Some(Secret::new("s3cret")), max_connections: 2, ..quick() };
    let running = start(Config { header_timeout: Span::secs(60), body_timeout: Span::secs(60), ..config }, Duration::from_secs(1));
    let announced = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n");
    // A body is not waited for where none is needed.
    assert_eq!(status(&within(5, running.ask(&announced("/healthz"))).await), "405");
    let mut refused = Vec::new();
    for _ in 0..2 {
        let mut stream = running.connect().await;
        stream.write_all(announced("/size").as_bytes()).await.unwrap();
        refused.push(stream);
    }
    assert_eq!(status(&within(5, running.ask(GET)).await), "200");
    // One of them lost its place before it was told why it was refused.
    let (told, ..) = within(5, futures::future::select_all(refused.into_iter().map(|stream| Box::pin(ended(stream))))).await;
    assert_eq!(String::from_utf8_lossy(&told), "");
    let mut others = Vec::new();
    for number in 0..2 * HEALTH_CONNECTIONS {
        let mut stream = TcpStream::connect(running.health).await.unwrap();
        stream.write_all(announced(if number % 2 == 0 { "/healthz" } else { "/size" }).as_bytes()).await.unwrap();
        others.push(stream);
    }
    assert_eq!(status(&within(5, ask(TcpStream::connect(running.health).await.unwrap(), GET)).await), "200");
    for (number, mut stream) in others.into_iter().enumerate() {
        let expected = if number % 2 == 0 { "405" } else { "404" };
        assert_eq!(status(&within(5, answer(&mut stream)).await), expected);
    }
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_whether_announced_or_not() {
    let running = start(quick(), Duration::from_secs(1));
    let over = (1 << 20) + 1;
    let announced = format!("POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: {over}\r\n\r\n{}", "x".repeat(over));
    let chunked =
        format!("POST /size HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{over:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(over));
    for request in [announced, chunked] {
        let mut stream = running.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = within(5, answer(&mut stream)).await;
        assert!(status(&text) == "413" && text.contains("body_too_large"), "{text}");
        // The rest was read and discarded: the connection goes on.
        stream.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(status(&within(5, answer(&mut stream)).await), "200");
    }
    // A caller that asks first is told before it sends anything.
    let asks = format!("POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: {over}\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(status(&within(5, running.ask(&asks)).await), "413");
}

#[tokio::test]
async fn bodies_on_their_way_are_bounded_together_and_counted_as_they_arrive() {
    let running = start(Config { body_timeout: Span::secs(30), ..quick() }, Duration::from_secs(1));
    let head = "POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n";
    // An announcement alone takes no memory.
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = running.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let body = "x".repeat((1 << 20) - 1);
    assert_eq!(status(&within(5, running.ask(&format!("{head}{body}x"))).await), "200");
    // There is room for four MiB; all of these but for their last byte are more.
    let mut refused = 0;
    for stream in &mut slow {
        stream.write_all(body.as_bytes()).await.unwrap();
    }
    for mut stream in slow {
        stream.write_all(b"x").await.unwrap();
        let text = within(20, answer(&mut stream)).await;
        match status(&text) {
            "200" => {}
            "429" => {
                assert!(text.contains("retry-after: 1"), "{text}");
                refused += 1;
            }
            _ => panic!("{text}"),
        }
    }
    assert!((1..=17).contains(&refused), "{refused}");
    assert_eq!(status(&within(5, running.ask(&format!("{head}{body}x"))).await), "200", "all is given back");
}

#[tokio::test]
async fn too_much_of_a_head_is_refused() {
    let running = start(quick(), Duration::from_secs(1));
    let header = format!("GET /size HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    let headers = format!("GET /size HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200));
    for request in [header, headers] {
        let mut stream = running.connect().await;
        let _ = stream.write_all(request.as_bytes()).await;
        let text = within(5, answer(&mut stream)).await;
        assert!(text.is_empty() || status(&text) == "431", "{text}");
    }
    let uri = format!("GET /size?{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(40_000));
    assert_eq!(status(&within(5, running.ask(&uri)).await), "414");
    assert_eq!(status(&within(5, running.ask("\0\0\0\r\n\r\n")).await), "400");
}
