//! What is measured, in which order, and what it should come to.

use crate::bare::{self, NOTE};
use crate::guard::{Folder, Interrupt, Kept, own_mounts, processors};
use crate::measure::{Plan, Results, interleaved, median};
use crate::others::{self, Other, Sample};
use crate::pinfold::Pinfold;
use crate::report::Report;
use crate::worker::{Act, Worker};
use crate::{Result, audit, containers, failed, machine, writers};
use rustix::fs::XattrFlags;
use std::path::{Path, PathBuf};

/// Who reads: a uid without a name, root, or groups.
const READER: u32 = 61_234;
/// Bytes of a secret in most measurements.
const SMALL: usize = 64;
/// Bytes of a large one.
const LARGE: usize = 1 << 20;
/// Client threads in the second measurement of opens.
const THREADS: usize = 4;
/// The other pinfold: it may know nothing of limits.
const BEFORE: &str = "before";
/// The reader is no more than one uid, and opens faster, and has more, than one may by default.
const NO_DELAY: &str = "[limits]\nopens = 100000000\ncommit_rate = 100000000\nversions = 100000000\n";

/// From the command line.
pub struct Options {
    quick: bool,
    pinfold: bool,
    /// Only what one open costs.
    opens: bool,
    /// Only what writing costs.
    writes: bool,
    /// Another pinfold, measured in the same rounds.
    before: Option<PathBuf>,
    /// Secrets in each store, ascending.
    sizes: Vec<usize>,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options =
            Options { quick: false, pinfold: true, opens: false, writes: false, before: None, sizes: vec![] };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--without-pinfold" => options.pinfold = false,
                "--opens" => options.opens = true,
                "--writes" => options.writes = true,
                "--before" => options.before = args.next().map(PathBuf::from),
                "--secrets" => {
                    let list = args.next().map(String::as_str).unwrap_or_default();
                    options.sizes = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                other => {
                    let known = "--quick, --secrets A,B,C, --without-pinfold, --opens, --writes, --before BINARY";
                    return failed(format!("'{other}': it takes {known}"));
                }
            }
        }
        if options.sizes.is_empty() {
            options.sizes = if options.quick { vec![100, 1000] } else { vec![100, 10_000, 100_000] };
        }
        Ok(options)
    }

    fn rounds(&self, rounds: usize) -> usize {
        if self.quick { 3 } else { rounds }
    }

    fn samples(&self, samples: usize) -> usize {
        if self.quick { samples.div_ceil(10) } else { samples }
    }
}

/// Everything that is mounted and running, and where the results go.
struct Bench<'a> {
    options: &'a Options,
    interrupt: Interrupt,
    reader: Worker,
    admin: Worker,
    bare: Other,
    tmpfs: Other,
    gocryptfs: Other,
    disk: Other,
    /// With the number of secrets in each.
    stores: Vec<(usize, Pinfold)>,
    /// As many as in the first, served by another binary.
    before: Option<Pinfold>,
    report: Report,
    folder: Folder,
}

/// All of it.
pub fn run(options: &Options) -> Result<()> {
    own_mounts()?;
    let interrupt = Interrupt::watch()?;
    let folder = Folder::new()?;
    let facts = machine::facts(folder.path());
    // The reader must be able to execute it, wherever it was built.
    let program = folder.path().join("openbench");
    std::fs::copy(std::env::current_exe()?, &program)?;
    let files = files();
    let mut bench = Bench {
        options,
        interrupt,
        reader: Worker::start(&program, READER)?,
        admin: Worker::start(&program, 0)?,
        bare: others::bare(&folder, &program, &files, READER)?,
        tmpfs: others::tmpfs(&folder, &files, READER)?,
        gocryptfs: others::gocryptfs(&folder, &files, READER)?,
        disk: others::disk(&folder, &files, READER)?,
        stores: vec![],
        before: None,
        report: Report::default(),
        folder,
    };
    if options.pinfold {
        bench.fill_stores()?;
    }
    if options.writes {
        bench.enrolments()?;
        bench.writers()?;
        print!("{}", bench.report.markdown(&facts));
        return Ok(());
    }
    bench.opens()?;
    bench.opens_on_one_processor()?;
    if options.opens {
        print!("{}", bench.report.markdown(&facts));
        return Ok(());
    }
    bench.opens_among_many()?;
    bench.opens_by_threads()?;
    bench.stats()?;
    bench.folders_links_and_attributes()?;
    bench.enrolments()?;
    bench.writers()?;
    bench.large()?;
    bench.audit_line()?;
    bench.containers()?;
    bench.starts()?;
    print!("{}", bench.report.markdown(&facts));
    Ok(())
}

/// What is read: a small file for each thread, one that nobody reads, a large one.
fn files() -> Vec<Sample> {
    let small = (0..THREADS).map(|t| (format!("small-{t}"), SMALL));
    small.chain([("unread".into(), SMALL), ("large".into(), LARGE)]).collect()
}

impl Bench<'_> {
    fn fill_stores(&mut self) -> Result<()> {
        for &size in &self.options.sizes {
            let store = self.filled(&crate::pinfold::binary(), &format!("pinfold-{size}"), size)?;
            self.stores.push((size, store));
        }
        if let (Some(binary), Some(&size)) = (&self.options.before, self.options.sizes.first()) {
            self.before = Some(self.filled(binary, BEFORE, size)?);
        }
        Ok(())
    }

    fn filled(&mut self, binary: &Path, name: &str, size: usize) -> Result<Pinfold> {
        eprintln!("openbench: a store of {size} secrets, {}", binary.display());
        let limits = if name == BEFORE { "" } else { NO_DELAY };
        let store = Pinfold::new(&self.folder, name, binary, limits)?;
        for (name, bytes) in files() {
            store.put(&name, bytes, READER)?;
        }
        store.fill(size.saturating_sub(files().len()), &mut self.reader, &self.interrupt)?;
        Ok(store)
    }

    /// The store of the usual measurements: the smallest.
    fn usual(&self) -> Option<&Pinfold> {
        self.stores.first().map(|(_, store)| store)
    }

    /// The others, and pinfold if it is measured, with the file of that name.
    fn targets(&self, names: &[&'static str], file: &str) -> Vec<(&'static str, String)> {
        let at = |folder: &PathBuf| folder.join(file).to_string_lossy().into_owned();
        let all = [
            ("bare FUSE", Some(&self.bare.bench)),
            ("pinfold", self.usual().map(|p| &p.bench)),
            ("pinfold before", self.before.as_ref().map(|p| &p.bench)),
            ("tmpfs", Some(&self.tmpfs.bench)),
            ("gocryptfs", Some(&self.gocryptfs.bench)),
            ("disk", Some(&self.disk.bench)),
        ];
        all.iter().filter(|(name, _)| names.contains(name)).filter_map(|(n, f)| f.map(|f| (*n, at(f)))).collect()
    }

    fn measure(&mut self, as_admin: bool, plan: &Plan<'_>) -> Result<Results> {
        let worker = if as_admin { &mut self.admin } else { &mut self.reader };
        interleaved(plan, worker, &self.interrupt)
    }

    /// The same by the reader, with it and all that serve it on one processor: no request pays for waking another.
    fn measure_on_one(&mut self, plan: &Plan<'_>) -> Result<Results> {
        let (all, one) = processors()?;
        self.confine(&one)?;
        let results = self.measure(false, plan);
        self.confine(&all)?;
        results
    }

    fn opens(&mut self) -> Result<()> {
        eprintln!("openbench: open, read, close");
        let targets = self.targets(&["bare FUSE", "pinfold", "pinfold before", "tmpfs", "gocryptfs"], "small-0");
        let results = self.measure(
            false,
            &Plan {
                act: Act::Open,
                targets: &targets,
                rounds: self.options.rounds(21),
                samples: self.options.samples(2000),
                warm: 100,
                threads: 1,
                size: SMALL,
                many: &[],
                synced: &[],
            },
        )?;
        self.report.section(
            "open + read + close of 64 bytes",
            "A process of a uid that is not root, which owns the file, on a read-write mount with ACLs negotiated; one thread. \
             Authorised and audited,\nthe line written before open(2) returns. \"bare FUSE\" answers the same requests with the \
             same flags from memory.",
        );
        self.report.latencies(&results, &["bare FUSE", "tmpfs", "gocryptfs", "pinfold before"]);
        let (Some(pinfold), Some(bare), Some(gocryptfs)) =
            (results.get("pinfold"), results.get("bare FUSE"), results.get("gocryptfs"))
        else {
            return Ok(());
        };
        let over = pinfold.over(bare);
        self.report.goal("open+read+close over bare FUSE", "p50 + 20 µs", format!("+ {over:.1} µs"), over <= 20.0);
        let (ratio, ..) = pinfold.ratio(gocryptfs);
        self.report.goal("open+read+close against gocryptfs", "≤ 0.8 ×", format!("{ratio:.2} ×"), ratio <= 0.8);
        Ok(())
    }

    /// Where a request wakes no other processor, the work itself is what is left.
    fn opens_on_one_processor(&mut self) -> Result<()> {
        eprintln!("openbench: open, read, close on one processor");
        let targets = self.targets(&["bare FUSE", "pinfold", "pinfold before", "tmpfs", "gocryptfs"], "small-0");
        let results = self.measure_on_one(&Plan {
            act: Act::Open,
            targets: &targets,
            rounds: self.options.rounds(11),
            samples: self.options.samples(2000),
            warm: 100,
            threads: 1,
            size: SMALL,
            many: &[],
            synced: &[],
        })?;
        self.report.section(
            "The same on one processor",
            "Client and daemons are confined to one processor, so that no request pays for waking another: what is left is the \
             work.",
        );
        self.report.latencies(&results, &["bare FUSE", "tmpfs", "gocryptfs", "pinfold before"]);
        if let (Some(pinfold), Some(bare)) = (results.get("pinfold"), results.get("bare FUSE")) {
            let over = pinfold.over(bare);
            let met = over <= 20.0;
            self.report.goal("the same on one processor", "p50 + 20 µs", format!("+ {over:.1} µs"), met);
        }
        Ok(())
    }

    /// The same open in stores of other sizes: of one secret over and over, and of another each time.
    fn opens_among_many(&mut self) -> Result<()> {
        if self.stores.is_empty() {
            return Ok(());
        }
        eprintln!("openbench: open, read, close among many");
        let names: Vec<[String; 2]> =
            self.stores.iter().map(|(n, _)| [format!("{n} secrets"), format!("{n} secrets, each in turn")]).collect();
        let mut targets: Vec<(&str, String)> = vec![];
        let mut many = vec![];
        for ([same, other], (n, store)) in names.iter().zip(&self.stores) {
            targets.push((same, store.bench.join("small-0").to_string_lossy().into_owned()));
            targets.push((other, store.filled()));
            many.extend([1, n - files().len()]);
        }
        let results = self.measure_on_one(&Plan {
            act: Act::Open,
            targets: &targets,
            rounds: self.options.rounds(21),
            samples: self.options.samples(2000),
            warm: 100,
            threads: 1,
            size: SMALL,
            many: &many,
            synced: &[],
        })?;
        self.report.section(
            "The same among more secrets",
            "One secret over and over, and another each time, far from the one before. On one processor.",
        );
        self.report.latencies(&results, &[&names[0][0], &names[0][1]]);
        for (i, what) in
            ["the same open among more secrets", "another secret each time, among more"].into_iter().enumerate()
        {
            let Some(base) = results.get(&names[0][i]) else { continue };
            let others = names.iter().skip(1).filter_map(|name| results.get(&name[i]));
            let ratios: Vec<f64> = others.map(|series| series.ratio(base).0).collect();
            let shown: Vec<String> = ratios.iter().map(|r| format!("{r:.2} ×")).collect();
            self.report.goal(what, "≤ 1.1 ×", shown.join(", "), ratios.iter().all(|r| *r <= 1.1));
        }
        Ok(())
    }

    /// Keeps the reader and all that serve it to those processors.
    fn confine(&self, set: &nix::sched::CpuSet) -> Result<()> {
        let others = [&self.bare, &self.tmpfs, &self.gocryptfs, &self.disk].map(|o| o.daemon.as_ref());
        let stores = self.stores.iter().map(|(_, store)| store).chain(&self.before).map(Pinfold::process);
        let all: Vec<&Kept> = others.into_iter().chain(stores).flatten().chain([&self.reader.child]).collect();
        all.into_iter().try_for_each(|process| process.confine(set))
    }

    fn opens_by_threads(&mut self) -> Result<()> {
        eprintln!("openbench: open, read, close by {THREADS} threads");
        let targets = self.targets(&["bare FUSE", "pinfold", "tmpfs", "gocryptfs"], "small-{t}");
        let results = self.measure(
            false,
            &Plan {
                act: Act::Open,
                targets: &targets,
                rounds: self.options.rounds(11),
                samples: self.options.samples(1000),
                warm: 50,
                threads: THREADS,
                size: SMALL,
                many: &[],
                synced: &[],
            },
        )?;
        self.report.section(
            "The same by 4 threads",
            "Each thread has a file of its own. Clients and daemon share the processors.",
        );
        self.report.latencies(&results, &["bare FUSE", "gocryptfs"]);
        Ok(())
    }

    fn stats(&mut self) -> Result<()> {
        eprintln!("openbench: stat");
        let targets = self.targets(&["bare FUSE", "pinfold", "tmpfs"], "unread");
        let results = self.measure(
            false,
            &Plan {
                act: Act::Stat,
                targets: &targets,
                rounds: self.options.rounds(21),
                samples: self.options.samples(5000),
                warm: 100,
                threads: 1,
                size: SMALL,
                many: &[],
                synced: &[],
            },
        )?;
        self.report.section(
            "stat",
            "Of a file not read since: the kernel answers. (On a read-write mount a read makes the next stat ask once.)",
        );
        self.report.latencies(&results, &["tmpfs"]);
        if let (Some(pinfold), Some(tmpfs)) = (results.get("pinfold"), results.get("tmpfs")) {
            let (ratio, ..) = pinfold.ratio(tmpfs);
            self.report.goal("stat against tmpfs", "≤ 1.1 ×", format!("{ratio:.2} ×"), ratio <= 1.1);
        }
        Ok(())
    }

    /// What the kernel's own check of permissions is not enough for: the daemon decides these too.
    fn folders_links_and_attributes(&mut self) -> Result<()> {
        eprintln!("openbench: opendir, readlink, getxattr");
        // The bare one has them from the start.
        for folder in self.usual().into_iter().chain(&self.before).map(|store| &store.bench) {
            std::os::unix::fs::symlink(bare::TARGET, folder.join("link"))?;
            rustix::fs::setxattr(folder.join("small-0"), NOTE.0, NOTE.1.as_bytes(), XattrFlags::empty())?;
        }
        self.report.section(
            "opendir, readlink, getxattr",
            "Each is decided as if its caller had no capabilities; opendir with its closedir, which the kernel does not wait for. On one processor.",
        );
        for (what, act, file) in [
            ("opendir", Act::OpenFolder, "."),
            ("readlink", Act::ReadLink, "link"),
            ("getxattr", Act::ReadAttribute, "small-0"),
        ] {
            let targets = self.targets(&["bare FUSE", "pinfold", "pinfold before"], file);
            let results = self.measure_on_one(&Plan {
                act,
                targets: &targets,
                rounds: self.options.rounds(11),
                samples: self.options.samples(2000),
                warm: 100,
                threads: 1,
                size: SMALL,
                many: &[],
                synced: &[],
            })?;
            self.report.paragraph(&format!("{what}:"));
            self.report.latencies(&results, &["bare FUSE", "pinfold before"]);
        }
        Ok(())
    }

    fn enrolments(&mut self) -> Result<()> {
        eprintln!("openbench: enrolment");
        let targets = self.targets(&["pinfold", "pinfold before", "disk"], "new-{n}");
        let results = self.measure(
            true,
            &Plan {
                act: Act::Enrol,
                targets: &targets,
                rounds: self.options.rounds(11),
                samples: self.options.samples(200),
                warm: 0,
                threads: 1,
                size: SMALL,
                many: &[],
                synced: &["disk"],
            },
        )?;
        self.report.section(
            "Durable enrolment",
            "By root. pinfold: create, write 64 bytes, close, which returns once it is on the disk. The disk's own filesystem: \
             create, write, fsync,\nclose.",
        );
        self.report.latencies(&results, &["disk"]);
        if let (Some(pinfold), Some(disk)) = (results.get("pinfold"), results.get("disk")) {
            let (ratio, ..) = pinfold.ratio(disk);
            self.report.goal("durable enrolment against the disk", "≤ 1.5 ×", format!("{ratio:.2} ×"), ratio <= 1.5);
        }
        Ok(())
    }

    fn writers(&mut self) -> Result<()> {
        eprintln!("openbench: several writers at once");
        self.report.section(
            "Several writers at once",
            "By root, each its own file over and over: open to write, 64 bytes, close, which returns once it is on the disk; the disk's own filesystem with\n\
             fsync. Operations a second of all together.",
        );
        let targets = self.targets(&["pinfold", "pinfold before", "disk"], "writer-{t}");
        let size = (self.options.rounds(7), self.options.samples(150));
        let all = writers::commits(&targets, size, &mut self.admin, &self.interrupt)?;
        let rate = |results: &Results| results.get("pinfold").map_or(f64::NAN, crate::measure::Series::rate);
        let one = all.first().map_or(f64::NAN, rate);
        for (threads, results) in writers::AT_ONCE.into_iter().zip(&all) {
            self.report.paragraph(&format!("{threads} at once:"));
            self.report.latencies(results, &["disk"]);
            let times = rate(results) / one;
            if threads > 1 && times.is_finite() {
                let what = if threads == 8 { "8 writers at once" } else { "16 writers at once" };
                self.report.goal(what, "≥ 4 × the commits of one", format!("{times:.2} ×"), times >= 4.0);
            }
        }
        let Some(bench) = self.usual().map(|pinfold| pinfold.bench.clone()) else { return Ok(()) };
        let at = |name: &str| bench.join(name).to_string_lossy().into_owned();
        let (path, crowd) = (at("small-0"), at("crowd-{t}"));
        let size = (self.options.rounds(7), self.options.samples(1000));
        let workers = (&mut self.reader, &mut self.admin);
        let [alone, beside] = writers::opens_in_a_crowd(&path, &crowd, size, workers, &self.interrupt)?;
        let times = beside.quantile(0.99) / alone.quantile(0.99);
        self.report.paragraph("An open of another user's, alone and while 24 of root's threads write and fsync:");
        self.report.latencies(&Results(vec![alone, beside]), &["alone"]);
        let (what, goal) = ("p99 of an open beside 24 writers", "≤ 1.5 × its p99 alone");
        self.report.goal(what, goal, format!("{times:.2} ×"), times <= 1.5);
        Ok(())
    }

    fn large(&mut self) -> Result<()> {
        eprintln!("openbench: secrets of 1 MiB");
        let targets = self.targets(&["bare FUSE", "pinfold", "tmpfs", "gocryptfs"], "large");
        let read = self.measure(
            false,
            &Plan {
                act: Act::Open,
                targets: &targets,
                rounds: self.options.rounds(11),
                samples: self.options.samples(50),
                warm: 2,
                threads: 1,
                size: LARGE,
                many: &[],
                synced: &[],
            },
        )?;
        let targets = self.targets(&["pinfold", "disk"], "large-new");
        let write = self.measure(
            true,
            &Plan {
                act: Act::Enrol,
                targets: &targets,
                rounds: self.options.rounds(11),
                samples: self.options.samples(20),
                warm: 1,
                threads: 1,
                size: LARGE,
                many: &[],
                synced: &["disk"],
            },
        )?;
        self.report.section(
            "Secrets of 1 MiB",
            "Opened, read to the end and closed; and a new version written and closed, durable, with the disk's filesystem \
             doing fsync.",
        );
        self.report.throughputs("read", &read, LARGE);
        self.report.throughputs("written, durable", &write, LARGE);
        Ok(())
    }

    fn audit_line(&mut self) -> Result<()> {
        eprintln!("openbench: the audit line");
        let cost = audit::cost(&self.folder, self.options.rounds(21))?;
        self.report.section("The audit line", &format!(
            "Recording an allowed open ({} bytes, hashed, written) takes {:.2} µs at p50; write(2) of the same bytes to a \
             file takes {:.2} µs; the\nmedian of the rounds' differences is {:.2} µs.",
            cost.line, cost.allowed, cost.write, cost.over
        ));
        let met = cost.over <= 2.0;
        self.report.goal("recording an allowed open, over write(2)", "≤ 2 µs", format!("{:.2} µs", cost.over), met);
        Ok(())
    }

    fn containers(&mut self) -> Result<()> {
        let Some((_, store)) = self.stores.first() else { return Ok(()) };
        eprintln!("openbench: containers");
        let plan = containers::Plan {
            rounds: self.options.rounds(21),
            samples: self.options.samples(1000),
            many: self.options.samples(1000),
        };
        let program = self.folder.path().join("openbench");
        let found = containers::measure(store, &program, &mut self.admin, &plan, &self.interrupt)?;
        let many = plan.many;
        self.report.section(
            "Containers",
            &format!(
                "open + read + close of 64 bytes by root, on one processor: of a secret of the host, and of a container's by a \
                 process in an attached\npid namespace; then the same while {many} instances are attached. Attaching one, \
                 durable: {:.2} ms at p50, {:.2} at p99; all {many}\ntogether took {:.1} MiB of resident memory. Publishing a \
                 secret as a user's key: {:.2} ms at p50.",
                found.attach.0, found.attach.1, found.memory, found.publish
            ),
        );
        for (host, inside, goal) in [
            (found.host, found.inside, "an open inside a container, over one on the host"),
            (found.beside, found.among, "the same with many attached"),
        ] {
            let (ratio, ..) = inside.ratio(&host);
            self.report.goal(goal, "≤ 1.3 ×", format!("{ratio:.2} ×"), ratio <= 1.3);
            let base = host.name.clone();
            self.report.latencies(&Results(vec![host, inside]), &[&base]);
        }
        Ok(())
    }

    fn starts(&mut self) -> Result<()> {
        let goal = ("start with the largest store", "≤ 1.5 s from unlock to serving");
        let memory = ("memory after that start", "RSS ≤ 128 MiB");
        let Some((size, mut store)) = self.stores.pop() else {
            self.report.unmeasured(goal.0, goal.1);
            self.report.unmeasured(memory.0, memory.1);
            return Ok(());
        };
        eprintln!("openbench: start with {size} secrets");
        let (mut ready, mut serving, mut now, mut most) = (vec![], vec![], vec![], vec![]);
        let probe = store.bench.join("small-0");
        for _ in 0..self.options.rounds(7) {
            self.interrupt.check()?;
            store.stop()?;
            let started = store.start(Some((&mut self.reader, &probe)))?;
            ready.push(started.ready.as_secs_f64());
            serving.push(started.serving.as_secs_f64());
            let (rss, peak) = store.resident();
            now.push(rss);
            most.push(peak);
        }
        let worst = serving.iter().copied().fold(0.0, f64::max);
        let least = serving.iter().copied().fold(f64::INFINITY, f64::min);
        let (ready, serving, now, most) = (median(ready), median(serving), median(now), median(most));
        self.report.section(&format!("Start with {size} secrets"), &format!(
            "From the start of `pinfold mount` to READY, locked: {ready:.3} s. From the start of `pinfold unlock` with a \
             keyfile to the end of the\nreader's first open, read and close: {serving:.3} s ({least:.3}–{worst:.3}). Resident \
             then {now:.0} MiB, at most {most:.0} MiB on the way."
        ));
        self.report.goal(goal.0, goal.1, format!("{serving:.2} s"), serving <= 1.5);
        self.report.goal(memory.0, memory.1, format!("{now:.0} MiB"), now <= 128.0);
        store.stop()
    }
}
