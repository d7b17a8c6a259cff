//! nginx, set up as one would in front of an engine: no buffering, kept-alive connections to the
//! engine, no access log. It must never use the system's configuration or folders.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

use super::{free_port, serve};
use crate::Fault;
use crate::client::Target;
use crate::process::Managed;

/// Starts it.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(Target, Managed), Fault> {
    let address = free_port()?;
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(address, engine, folder))?;
    let mut command = Command::new(program);
    command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(folder).arg("-c").arg(&file);
    Ok((Target::plain(address), serve(&mut command, folder)?))
}

fn configuration(listen: SocketAddr, engine: SocketAddr, folder: &Path) -> String {
    // As root the workers would become `nobody`, who may not enter the temporary folder.
    let user = if geteuid().is_root() { "user root;\n" } else { "" };
    let folder = folder.display();
    format!(
        "{user}daemon off;
# As many as the daemon has threads for requests on the two cores of our tables.
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
# 512 streams are 1024 connections, and one worker may get most of them.
worker_rlimit_nofile 4096;
events {{ worker_connections 4096; }}
http {{
    # The daemon writes its request log; nginx is spared one.
    access_log off;
    tcp_nodelay on;
    # No connection is closed for its age: new ones would be measured instead of requests.
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{
        server {engine};
        # Idle connections to the engine that each worker keeps.
        keepalive 64;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://engine;
            # Both are needed to keep connections to the engine alive.
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            # Each event goes on when it comes, as streams need it.
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"
    )
}
