// Asks the server; what it refuses is an error with words for people.

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || "The server gave no answer that can be read.");
    this.status = status;
    this.slug = (problem.type || "").split(":").pop();
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { detail: "The server cannot be reached. Is it running, and are you online?" });
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

// A server with a token gets it as the page's fragment, #token=..., which browsers do not send.
function authorization() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

const post = (path, content, signal) =>
  ask(path, { method: "POST", signal, body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });

export const about = () => ask("v1/catalog");
export const search = (content, signal) => post("v1/search", content, signal);
export const explain = (content) => post("v1/explain", content);
export const send = (blob) => ask("v1/photos", { method: "POST", body: blob, headers: { "Content-Type": blob.type } });

// Pictures: an <img> can bear no token, so that with one they are fetched.
export async function show(img, url) {
  const headers = authorization();
  if (!headers.Authorization) { img.src = url; return; }
  const answer = await fetch(url, { headers });
  if (answer.ok) img.src = URL.createObjectURL(await answer.blob());
}

const LARGE_BYTES = 2e6, LARGE_SIDE = 2000, SENT_SIDE = 1600;

// Large photos are made smaller before they are sent, which is faster and drops where they were taken.
export async function prepare(file) {
  if (!["image/jpeg", "image/png", "image/webp"].includes(file.type)) {
    throw new Refused(415, { detail: "This is no JPEG, PNG or WebP photo. Choose another one." });
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Refused(422, { detail: "This photo cannot be read; it may be damaged. Choose another one." });
  }
  const side = Math.max(bitmap.width, bitmap.height);
  if (file.size <= LARGE_BYTES && side <= LARGE_SIDE) return file;
  const scale = Math.min(1, SENT_SIDE / side);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}
