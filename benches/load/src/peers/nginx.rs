//! nginx, set up as one would in front of an engine: no buffering, kept-alive connections to the
//! engine, no access log. It must never use the system's configuration or folders.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use super::free_port;
use crate::Fault;
use crate::process::Managed;

/// Starts it; the address is free for others until it binds, so a rare start fails.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(SocketAddr, Option<Managed>), Fault> {
    let address = free_port()?;
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(address, engine, folder))?;
    let log = File::create(folder.join("error.log"))?;
    let process = Managed::start(
        Command::new(program)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log),
    )?;
    Ok((address, Some(process)))
}

fn configuration(listen: SocketAddr, engine: SocketAddr, folder: &Path) -> String {
    // As root the workers would become `nobody`, who may not enter the temporary folder.
    let user = if geteuid().is_root() { "user root;\n" } else { "" };
    let folder = folder.display();
    format!(
        "{user}daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{
        server {engine};
        keepalive 64;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"
    )
}
