// Talking to the server: tokens, refusals, and jobs that are followed to their end.

const $ = (id) => document.getElementById(id);
const SILENT = "The service does not answer. Your words are kept here; try again when it is back.";
const RESTARTED = "The service was started anew and has lost this job. Your words are kept here; make it again.";

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("dualspec.token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("dualspec.token");
}

export async function ask(path, options = {}) {
  const secret = token();
  const headers = { ...options.headers, ...(secret && { authorization: `Bearer ${secret}` }) };
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    throw options.signal?.aborted ? error : Object.assign(new Error(SILENT), { isSilent: true });
  });
  if (answer.status === 401) {
    $("login").showModal();
    await new Promise((done) => $("login").addEventListener("close", done, { once: true }));
    sessionStorage.setItem("dualspec.token", $("token").value);
    return ask(path, options);
  }
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({ error: answer.statusText }));
  const later = answer.headers.get("retry-after");
  throw Object.assign(new Error(refusal.error + (later ? ` (in about ${later} s)` : "")), { field: refusal.field, status: answer.status });
}

export const json = async (path, options) => (await ask(path, options)).json();
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// Wait until the service answers again.
export async function isBack() {
  for (;;) {
    await pause(1.5);
    if (await fetch("/healthz").then((answer) => answer.ok, () => false)) return;
  }
}

// Call `tell` with every state of a job until it is over or the signal ends it; a broken line is picked up again,
// and `onSilence` is told while the service does not answer.
export async function follow(path, tell, { signal, onSilence } = {}) {
  while (!signal?.aborted) {
    try {
      const reader = (await ask(`${path}/events`, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (text + value).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const job = JSON.parse(event.slice(6));
          await tell(job);
          if (!["queued", "running"].includes(job.state)) return job;
        }
      }
    } catch (error) {
      if (signal?.aborted) break;
      if (error.status === 404) throw new Error(RESTARTED);
      if (error.status && error.status !== 503) throw error;
      onSilence?.();
    }
    await Promise.race([pause(1.5), new Promise((done) => signal?.addEventListener("abort", done))]);
  }
  return { state: "cancelled" };
}

// End a job on the server; nobody waits for it here.
export const end = (path) => ask(path, { method: "DELETE", keepalive: true }).catch(() => {});

// Hand a file to the reader's downloads.
export function download(content, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([content])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
