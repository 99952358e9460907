//! The readers: as many threads as are asked for, in blocks as programs read them.

use reqwest::blocking::Client;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

/// Bytes of one read; what the kernel itself reads ahead by default.
const BLOCK: usize = 128 << 10;

/// Files to be read by some threads.
pub(crate) struct Job {
    /// The files.
    pub(crate) files: Vec<PathBuf>,
    /// How many files further on each thread begins.
    pub(crate) stride: usize,
    /// Files that each thread reads.
    pub(crate) each: usize,
    /// Threads.
    pub(crate) readers: usize,
}

fn whole(path: &Path, block: &mut [u8]) -> io::Result<()> {
    let mut file = File::open(path)?;
    while file.read(block)? > 0 {}
    Ok(())
}

/// Runs `work` in each thread, given its number, and gives the seconds until the last has ended.
fn together<T: Send>(
    readers: usize,
    work: impl Fn(usize) -> Result<T, String> + Sync,
) -> Result<(f64, Vec<T>), String> {
    let work = &work;
    let started = Instant::now();
    let ends: Vec<Result<T, String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|reader| scope.spawn(move || work(reader)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err("a reader failed".into()))
            })
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    Ok((seconds, ends.into_iter().collect::<Result<_, _>>()?))
}

/// Seconds for the whole job.
pub(crate) fn read(job: &Job) -> Result<f64, String> {
    let (seconds, _) = together(job.readers, |reader| {
        let mut block = vec![0; BLOCK];
        for n in 0..job.each {
            let path = &job.files[(reader * job.stride + n) % job.files.len()];
            whole(path, &mut block).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    })?;
    Ok(seconds)
}

/// Lets the kernel forget what it holds of the job's files, so that the next read asks their file
/// system. Native files in memory keep their pages: they have no other place.
pub(crate) fn forget(job: &Job) -> Result<(), String> {
    for path in &job.files {
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let file = File::open(path).map_err(failed)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

/// Reads each of the names once: seconds, and the mean seconds until a file's first bytes.
pub(crate) fn cold(dir: &Path, names: &[String], readers: usize) -> Result<(f64, f64), String> {
    let each = names.len() / readers;
    let (seconds, firsts) = together(readers, |reader| {
        let mut block = vec![0; BLOCK];
        let mut first = 0.0;
        for name in &names[reader * each..(reader + 1) * each] {
            let path = dir.join(name);
            let started = Instant::now();
            let mut read = || -> io::Result<f64> {
                let mut file = File::open(&path)?;
                file.read_exact(&mut block[..4096])?;
                let first = started.elapsed().as_secs_f64();
                while file.read(&mut block)? > 0 {}
                Ok(first)
            };
            first += read().map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(first / each as f64)
    })?;
    Ok((seconds, firsts.iter().sum::<f64>() / readers as f64))
}

/// The same by HTTP to nothing, over the connections that the client has.
pub(crate) fn fetch(
    client: &Client,
    base: &str,
    names: &[String],
    readers: usize,
) -> Result<(f64, f64), String> {
    let each = names.len() / readers;
    let (seconds, firsts) = together(readers, |reader| {
        let mut block = vec![0; BLOCK];
        let mut first = 0.0;
        for name in &names[reader * each..(reader + 1) * each] {
            let started = Instant::now();
            let mut response = client
                .get(format!("{base}/{name}"))
                .send()
                .and_then(|response| response.error_for_status())
                .map_err(|e| e.to_string())?;
            response
                .read_exact(&mut block[..4096])
                .map_err(|e| e.to_string())?;
            first += started.elapsed().as_secs_f64();
            while response.read(&mut block).map_err(|e| e.to_string())? > 0 {}
        }
        Ok(first / each as f64)
    })?;
    Ok((seconds, firsts.iter().sum::<f64>() / readers as f64))
}

/// Calls per second over all paths, so many times.
pub(crate) fn per_second(
    paths: &[PathBuf],
    times: usize,
    call: impl Fn(&Path) -> io::Result<()>,
) -> Result<f64, String> {
    let started = Instant::now();
    for _ in 0..times {
        for path in paths {
            call(path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok((times * paths.len()) as f64 / started.elapsed().as_secs_f64())
}

/// Seconds of each of so many calls.
pub(crate) fn passes(times: usize, call: impl Fn() -> io::Result<()>) -> Result<Vec<f64>, String> {
    (0..times)
        .map(|_| {
            let started = Instant::now();
            call().map_err(|e| e.to_string())?;
            Ok(started.elapsed().as_secs_f64())
        })
        .collect()
}
