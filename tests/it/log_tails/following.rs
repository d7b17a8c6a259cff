//! `imageworks-models logs … -f` over the ends of daemons and connections, and `logs chat`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use serde_json::json;

use super::chat::{ask, ask_and_wait, upstream};
use super::tail::request_of;
use crate::models_cli::run::Models;
use crate::support::{BOUND, Engines, Setup};

#[test]
fn the_request_log_is_printed_and_followed_over_a_restart_of_the_daemon() {
    let upstream = upstream();
    let mut daemon = Setup::with(&upstream).start();
    let models = Models::of(&daemon);
    models.run(&["logs", "chat"]).failed(3, "nothing has been written to the request log yet");
    ask_and_wait(&daemon, "r-1");
    ask_and_wait(&daemon, "r-2");
    let printed = models.run(&["logs", "chat", "--lines", "1"]);
    assert_eq!(printed.out().lines().map(request_of).collect::<Vec<_>>(), ["r-2"]);
    let following = models.begin(&["logs", "chat", "-f"]);
    let next = || request_of(&following.until("request_id"));
    assert_eq!((next(), next()), ("r-1".into(), "r-2".into()));
    daemon.terminate();
    following.until_err("the daemon has ended; trying to connect again");
    assert!(daemon.wait_exit(BOUND).success());
    daemon.restart();
    ask(&daemon, "r-3");
    assert_eq!(next(), "r-3");
    assert_eq!(following.until_err(""), "connected again");
    daemon.kill();
    assert!(following.until_err("").contains("trying to connect again"));
    daemon.restart();
    ask(&daemon, "r-4");
    assert_eq!(next(), "r-4");
    assert_eq!(following.until_err(""), "connected again");
    // Who does not know him any more ends it.
    models.run(&["logs", "no-such", "-f"]).failed(3, "no-such");
}

/// Somebody between the program and the daemon who cuts connections.
struct Between {
    port: u16,
    open: std::sync::Arc<Mutex<Vec<TcpStream>>>,
}

impl Between {
    fn start(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let open = std::sync::Arc::new(Mutex::new(Vec::new()));
        let known = open.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(to) else { return };
                let mut known = known.lock().expect("unpoisoned");
                known.extend([
                    client.try_clone().expect("a copy"),
                    server.try_clone().expect("a copy"),
                ]);
                let (from, back) = (client.try_clone().expect("a copy"), server.try_clone());
                thread::spawn(move || pass(from, back.expect("a copy")));
                thread::spawn(move || pass(server, client));
            }
        });
        Between { port, open }
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("unpoisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

#[test]
fn a_connection_that_breaks_is_made_again_behind_the_last_line() {
    let upstream = upstream();
    let daemon = Setup::with(&upstream).start();
    let between = Between::start(daemon.addr());
    let url = format!("http://127.0.0.1:{}", between.port);
    let models = Models::of(&daemon);
    ask_and_wait(&daemon, "r-0");
    let following = models.begin(&["--url", &url, "logs", "chat", "-f", "--lines", "1"]);
    let next = || request_of(&following.until("request_id"));
    assert_eq!(next(), "r-0");
    for round in 1..3 {
        ask(&daemon, &format!("r-{round}-a"));
        assert_eq!(next(), format!("r-{round}-a"));
        between.cut();
        following.until_err("trying to connect again");
        ask(&daemon, &format!("r-{round}-b"));
        assert_eq!(next(), format!("r-{round}-b"));
        assert_eq!(following.until_err(""), "connected again");
    }
}

#[test]
fn a_model_that_is_called_chat_has_its_own_log() {
    let it = Engines::new().model("chat", &["--like-vllm"]).start();
    let models = Models::of(&it.daemon);
    models.run(&["logs", "--backend", "chat"]).failed(3, "the log of chat");
    let done = it.order("activate", json!({"model": "chat", "wait": true}));
    assert_eq!(done.status(), 200, "{}", done.text());
    let printed = models.run(&["logs", "chat", "--backend"]);
    assert!(printed.out().contains("Application startup complete."), "{}", printed.out());
    let following = models.begin(&["logs", "chat", "--backend", "-f"]);
    following.until("Application startup complete.");
    models.run(&["logs", "chat"]).failed(3, "the request log");
}
