//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Lines for the report: processor, memory, kernel, filesystem, versions.
pub fn facts(folder: &Path) -> Vec<String> {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let hypervisor = field("/proc/cpuinfo", "flags").split(' ').any(|f| f == "hypervisor");
    let disk = output("df", &["--output=fstype", &folder.to_string_lossy()]);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    vec![
        format!("{}, {threads} threads, {} GiB", field("/proc/cpuinfo", "model name"), kib >> 20),
        format!("Linux {}{}", kernel.trim(), if hypervisor { ", a virtual machine" } else { "" }),
        format!("stores, logs and the \"disk\" they are compared with: {disk}"),
        format!("load average before: {load}"),
        output("gocryptfs", &["-version"]),
        output("rustc", &["--version"]),
    ]
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&out);
    text.lines()
        .next_back()
        .filter(|l| !l.is_empty())
        .map_or_else(|| format!("{program}: unknown"), |line| line.trim().to_owned())
}

/// A process's resident memory in MiB, now and at its highest.
pub fn resident(pid: u32) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
    };
    (field("VmRSS"), field("VmHWM"))
}
