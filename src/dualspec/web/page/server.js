// Talking to the server: tokens, refusals, and jobs that are followed to their end.

const $ = (id) => document.getElementById(id);

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
  const answer = await fetch(path, { ...options, headers });
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

// Call `tell` with every state of a job until it is over; a broken line is picked up again.
export async function follow(path, tell) {
  for (;;) {
    try {
      const reader = (await ask(`${path}/events`)).body.pipeThrough(new TextDecoderStream()).getReader();
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
      if (error.status) throw error;
    }
    await new Promise((done) => setTimeout(done, 1500));
  }
}

// Hand a file to the reader's downloads.
export function download(content, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([content])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
