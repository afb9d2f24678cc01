/**
 * What learners do, told from a browser: kept in IndexedDB until the device or the cloud has answered that it has it.
 *
 *     import { TelemetryService, SyncService } from "/telemetry.js";
 *     const telemetry = new TelemetryService({ userId, sessionId });
 *     await telemetry.initialize();
 *     telemetry.captureEvent("ANSWER_SELECTED", { position: 3, selected_index: 1 }, { questionId });
 *     await telemetry.submit(); // before a redirect
 *
 * Nothing here throws, blocks or shows an error to a learner. The wire is docs/learning-events.md.
 */
const BEHAVIOUR = new Set(["PAUSE_BLUR", "NAVIGATE_NEXT", "NAVIGATE_PREV", "NAVIGATE_JUMP", "QUESTION_VIEWED"]);
const ANSWERS = new Set(["ANSWER_SELECTED", "ANSWER_CHANGED", "MARK_FOR_REVIEW_TOGGLED"]);
const LIFECYCLE = ["SESSION_CREATED", "SESSION_SUBMITTED", "SESSION_EXPIRED", "REVIEW_OPENED"];
const SESSION_TYPES = new Set([...BEHAVIOUR, ...ANSWERS, ...LIFECYCLE]);
const PATHS = { session: "/v1/telemetry/events", batch: "/api/telemetry/batch" };
const NAME = "pisync-telemetry";
const GROUP = 50; // events per request
const PAYLOAD_BYTES_MAX = 4096; // of one event
const ROW_BYTES_MAX = 8192; // of one event with its envelope
const KEEPALIVE_BYTES_MAX = 60_000; // browsers take 64 KiB at most from a page that goes away
const REQUEST_MS = 30_000; // then a request counts as a broken link
const CLAIM_MS = 60_000; // so long a tab that died while it sent can hold up the others
const HOLD_MS = 300_000; // after a refused token or a stranger's answer, unless setToken comes first
const WAIT_MS_MAX = 86_400_000; // a timer beyond 24 days fires at once
const RETRYABLE = new Set([0, 200, 408, 429, 502, 503, 504]); // 0: no answer; 200 without a proof is none either
const REFUSALS = new Set([400, 409, 413, 422]);

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
const bytesOf = (text) => new TextEncoder().encode(text).length;
const rankOf = (type) => (BEHAVIOUR.has(type) ? 0 : ANSWERS.has(type) ? 2 : 1); // the lowest is dropped first
const trouble = (code, more) => Object.assign(new Error(code), { code, ...more });
const answered = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** A UUID of version 7: time first, so that a database keeps together what came together; else random. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.max(0, Date.now())) << 16n | BigInt(bytes[6] << 8 | bytes[7]));
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** The user of a JWT, or "": what one learner left must not be sent in the name of the next at this computer. */
function subjectOf(token) {
  try {
    return String(JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub ?? "");
  } catch {
    return "";
  }
}

/** Ids of what must go so that the rest fits: behaviour first, answers last, the oldest of each first. */
function surplus(rows, maxEvents, maxBytes) {
  let events = rows.length;
  let bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  const gone = [];
  for (const row of [...rows].sort((a, b) => a.rank - b.rank || a.at - b.at)) {
    if (events <= maxEvents && bytes <= maxBytes) break;
    events -= 1;
    bytes -= row.bytes;
    gone.push(row.id);
  }
  return gone;
}

/** What a 200 says about each event of its request: {delivered, reasons}, or null when it does not account for all. */
function verdictOf(route, rows, answer) {
  if (route === "session") {
    const { accepted, rejected, rejected_reasons_sample: sample } = answer ?? {};
    if (!(accepted >= 0 && rejected >= 0 && accepted + rejected === rows.length)) return null;
    const reasons = (Array.isArray(sample) ? sample : []).slice(0, rejected)
      .map((reason) => ({ id: rows[reason?.index]?.id, code: reason?.code, detail: reason?.detail }));
    while (reasons.length < rejected) reasons.push({ code: "not-listed" });
    return { delivered: accepted, reasons };
  }
  const results = Array.isArray(answer?.data?.results) ? answer.data.results : [];
  const byId = new Map(results.map((result) => [result?.itemId, result]));
  if (!rows.every((row) => byId.has(row.id))) return null;
  const reasons = rows.map((row) => byId.get(row.id))
    .filter(({ status }) => status !== "synced" && status !== "duplicate")
    .map(({ itemId, status, code, detail }) => ({ id: itemId, code: code ?? status, detail }));
  return { delivered: rows.length - reasons.length, reasons };
}

/** Retry-After, seconds or a date, in milliseconds; null when there is none. */
function retryAfterMs(header) {
  const ms = /^\s*\d+\s*$/.test(header ?? "") ? Number(header) * 1000 : Date.parse(header ?? "") - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), WAIT_MS_MAX) : null;
}

/** The numbers that all tabs and pages of an origin share: seq per session, losses, until when to wait. */
class Shared {
  #spare = null; // set where there is no localStorage: then this page counts for itself

  read() {
    let state = this.#spare;
    try {
      state ??= JSON.parse(localStorage.getItem(NAME));
    } catch {
      state = this.#spare = {};
    }
    // Field by field: other scripts of the origin write there too.
    const { seqs, rejected, waits, dropped } = Object(state);
    return { seqs: { ...seqs }, rejected: { ...rejected }, waits: { ...waits }, dropped: Number(dropped) || 0 };
  }

  change(edit) {
    const state = this.read();
    edit(state);
    try {
      if (!this.#spare) return localStorage.setItem(NAME, JSON.stringify(state));
    } catch { /* no room: below */ }
    this.#spare = state;
  }

  nextSeq(session) {
    const seq = (Number(this.read().seqs[session]) || 0) + 1;
    this.change((state) => { state.seqs = Shared.with(state.seqs, session, seq); });
    return seq;
  }

  /** The newest 50 entries, with this one as the last. */
  static with(entries, key, value) {
    return Object.fromEntries([...Object.entries(entries).filter(([each]) => each !== key).slice(-49), [key, value]]);
  }
}

/** The queue of a page that has no IndexedDB: gone with the page. */
class MemoryQueue {
  #rows = new Map();
  constructor(rows) { this.add(rows); }
  async add(rows) { for (const row of rows) this.#rows.set(row.id, row); }
  async remove(ids) { for (const id of ids) this.#rows.delete(id); }
  async take(owner, route) { return this.#of(owner).filter((row) => row.route === route).slice(0, GROUP); }
  async ids(owner) { return this.#of(owner).map((row) => row.id); }
  async trim(maxEvents, maxBytes) {
    const gone = surplus([...this.#rows.values()], maxEvents, maxBytes);
    await this.remove(gone);
    return gone;
  }
  async claim() { return true; }
  async release() { /* nobody else is there */ }
  #of(owner) { return [...this.#rows.values()].filter((row) => row.owner === owner); }
}

/** The queue in IndexedDB, one for all tabs of an origin and all users of this browser. */
class StoredQueue {
  #db;
  constructor(db) { this.#db = db; }

  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("events", { keyPath: "id" }).createIndex("queue", ["owner", "route", "at"]);
      request.result.createObjectStore("claims", { keyPath: "name" });
    };
    const db = await Promise.race([answered(request), sleep(5000)]);
    if (!db) throw new Error("IndexedDB does not answer");
    db.onversionchange = () => db.close();
    return new StoredQueue(db);
  }

  /** One transaction, strict: power is cut several times a day. `work` awaits nothing but requests. */
  async #change(name, work) {
    const transaction = this.#db.transaction(name, "readwrite", { durability: "strict" });
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
    });
    ended.catch(() => {}); // it is awaited below unless `work` fails first
    const result = await work(transaction.objectStore(name));
    await ended;
    return result;
  }

  add(rows) { return this.#change("events", (store) => { for (const row of rows) store.put(row); }); }
  remove(ids) { return this.#change("events", (store) => { for (const id of ids) store.delete(id); }); }
  async take(owner, route) { return answered(this.#queue().getAll(this.#range(owner, route), GROUP)); }
  async ids(owner) { return answered(this.#queue().getAllKeys(this.#range(owner))); }
  trim(maxEvents, maxBytes) {
    return this.#change("events", async (store) => {
      const count = await answered(store.count());
      if (count <= maxEvents && count * ROW_BYTES_MAX <= maxBytes) return [];
      const gone = surplus(await answered(store.getAll()), maxEvents, maxBytes);
      for (const id of gone) store.delete(id);
      return gone;
    });
  }

  /** For browsers and origins without Web Locks: true if this tab may send now. */
  claim(name, tab) {
    return this.#change("claims", async (store) => {
      const held = await answered(store.get(name));
      const left = held && held.tab !== tab ? held.until - Date.now() : 0;
      if (left > 0 && left <= CLAIM_MS) return false; // more than that is a clock that was set back
      store.put({ name, tab, until: Date.now() + CLAIM_MS });
      return true;
    });
  }
  release(name, tab) {
    return this.#change("claims", async (store) => {
      if ((await answered(store.get(name)))?.tab === tab) store.delete(name);
    });
  }

  #queue() { return this.#db.transaction("events").objectStore("events").index("queue"); }
  #range(...key) { return IDBKeyRange.bound(key, [...key, []]); } // an array sorts after all strings and numbers
}

/** Records events and sends them: at 10 events, after 12 s, on submit, and when the page is hidden or left. */
export class TelemetryService {
  #options; #owner; #token; #queue; #ready; #shared = new Shared(); #tab = uuid(); #stop = new AbortController();
  #mirror = new Map(); // what this page recorded and knows no answer for: a page that goes away cannot read a database
  #unsaved = []; #handed = new Set(); #handlers = new Map(); #saving; #running; #queued; #forced; #timer; #lastAt = 0; #leaving = false;
  #status = { pending: 0, delivered: 0, refused: 0, failures: [], storage: "opening", storageReason: null, syncing: false,
    lastSyncTime: null, lastError: null, attempts: 0, syncs: 0, syncMs: 0 };

  /**
   * @param {object} [options]
   * @param {string} [options.url] who takes the events; by default whoever served this module
   * @param {string} [options.token] a JWT, or this application's token at the device; kept in memory only
   * @param {string} [options.userId] the learner's UUID, sent as PiSync-User
   * @param {string} [options.sessionId] UUID of the session that the upper-case event types belong to
   * @param {string} [options.source="web"]
   * @param {number} [options.flushEvents=10] send when so many wait
   * @param {number} [options.flushMs=12000] send after this time at the latest
   * @param {number} [options.maxEvents=1000] ceiling; above it behaviour is dropped first, answers last
   * @param {number} [options.maxBytes=5242880] the same in bytes
   */
  constructor({ url = new URL(import.meta.url).origin, token, userId, sessionId, source = "web", flushEvents = 10,
    flushMs = 12_000, maxEvents = 1000, maxBytes = 5_242_880 } = {}) {
    url = new URL(url, location.href).href.replace(/\/+$/, "");
    this.#options = { url, userId, sessionId, source, flushEvents, flushMs, maxEvents, maxBytes };
    this.setToken(token);
  }

  /** Opens the queue and sends what an earlier page left. Never rejects. @returns {Promise<void>} */
  initialize() { return (this.#ready ??= this.#open()); }

  /**
   * @param {string} eventType a session type, or any name of your own
   * @param {object} [eventData] at most 4096 bytes as JSON, no personal data
   * @param {{questionId?: string, sessionId?: string, eventId?: string, priority?: number, clientTimestamp?: string}} [metadata]
   * @returns {string} the event's id
   */
  captureEvent(eventType, eventData, metadata) {
    let id = "";
    try {
      id = typeof metadata?.eventId === "string" && metadata.eventId ? metadata.eventId : uuid();
      const row = this.#row(id, eventType, eventData ?? {}, metadata ?? {});
      this.#mirror.set(id, row);
      this.#unsaved.push(row);
      this.#status.pending += 1;
      this.initialize();
      this.#save();
      this.#schedule();
      if (this.#leaving) this.#handOver();
    } catch (error) {
      this.#refuse([{ id, code: error?.code === "payload-too-large" ? error.code : "event-invalid", detail: String(error) }]);
    }
    return id;
  }

  /** @param {Array<{eventType: string, eventData?: object, metadata?: object}>} events @returns {string[]} their ids */
  captureEvents(events) {
    return (Array.isArray(events) ? events : []).map((e) => this.captureEvent(e?.eventType, e?.eventData, e?.metadata));
  }

  /** captureEvent by the name that session players know. @returns {string} the event's id */
  track(type, payload, metadata) { return this.captureEvent(type, payload, metadata); }

  /**
   * Sends all that waits, whatever the backoff; only a Retry-After of the server is kept. Never rejects.
   * @returns {Promise<{successCount: number, failureCount: number, error: string|null}>}
   */
  sync() { return this.#flush(true); }

  /**
   * Before a redirect: sends all that waits; what has no answer in time is left to the browser and the next page.
   * @param {{timeoutMs?: number}} [options] @returns {Promise<boolean>} true if nothing waits any more
   */
  async submit({ timeoutMs = 3000 } = {}) {
    const done = await Promise.race([this.sync().then(() => this.#status.pending === 0), sleep(timeoutMs)]);
    if (!done) this.#handOver();
    return done === true;
  }

  /** Numbers at hand; `dropped` and `rejected` (by reason) count for all pages of this origin. */
  getStatus() {
    const { dropped, rejected } = this.#shared.read();
    return { ...this.#status, failures: [...this.#status.failures], dropped, rejected, waitMs: this.#waitLeft(false) };
  }

  /** @param {"sync:start"|"sync:complete"|"sync:failed"} name @param {Function} handler @returns {() => void} unsubscribe */
  on(name, handler) {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => { handlers.delete(handler); };
  }

  /** A renewed token; what waited for it is sent. @param {string} [token] */
  setToken(token) {
    this.#token = token;
    this.#owner = `${this.#options.url} ${this.#options.userId ?? subjectOf(token)}`;
    if (this.#ready) this.#flush(true);
  }

  /** Records PAUSE_BLUR when the learner looks away and comes back. @returns {() => void} stop */
  watchBlur() {
    const stop = new AbortController();
    for (const state of ["blur", "focus"]) {
      addEventListener(state, () => this.captureEvent("PAUSE_BLUR", { state }), { signal: stop.signal });
    }
    this.#stop.signal.addEventListener("abort", () => stop.abort());
    return () => stop.abort();
  }

  /** Hands over what waits and stops listening, for an application that makes a new one for the next learner. */
  close() {
    this.#handOver();
    clearTimeout(this.#timer);
    this.#stop.abort();
  }

  async #open() {
    const listen = (target, name, handler) => target.addEventListener(name, handler, { signal: this.#stop.signal });
    listen(globalThis, "online", () => this.#flush(true));
    listen(globalThis, "pageshow", () => { this.#leaving = false; });
    listen(globalThis, "pagehide", () => {
      this.#leaving = true;
      this.#handOver();
    });
    listen(document, "visibilitychange", () => {
      if (document.visibilityState === "hidden") return this.#handOver();
      this.#handed.clear();
      this.#schedule();
    });
    try {
      this.#queue = await StoredQueue.open();
      this.#status.storage = "indexeddb";
    } catch (error) {
      this.#degrade(error);
    }
    await this.#unstash();
    await this.#look();
    if (this.#status.pending > this.#unsaved.length) this.#flush(false);
    else this.#schedule();
  }

  /** Without a database the page goes on in memory; what the database holds waits for the next page. */
  #degrade(error) {
    this.#queue = new MemoryQueue(this.#mirror.values());
    Object.assign(this.#status, { storage: "memory", storageReason: String(error?.message ?? error) });
  }

  /** Keeps what is not in the database yet: a browser may drop a transaction with its page, but not this. */
  #stash() {
    try {
      localStorage.removeItem(`${NAME}:${this.#tab}`);
      if (this.#unsaved.length) localStorage.setItem(`${NAME}:${this.#tab}`, JSON.stringify(this.#unsaved));
    } catch { /* no localStorage, or no room: the beacon is what is left */ }
  }

  /** Puts what pages stashed into the database. */
  async #unstash() {
    try {
      for (const key of Object.keys(localStorage).filter((each) => each.startsWith(`${NAME}:`))) {
        await this.#queue.add(JSON.parse(localStorage.getItem(key)) ?? []);
        localStorage.removeItem(key);
      }
    } catch (error) {
      console.debug(NAME, "stash:", error);
    }
  }

  #row(id, type, data, more) {
    if (typeof type !== "string" || !type) throw trouble("event-invalid");
    if (bytesOf(JSON.stringify(data)) > PAYLOAD_BYTES_MAX) throw trouble("payload-too-large");
    const clientTs = more.clientTimestamp ?? new Date().toISOString();
    const session = more.sessionId ?? this.#options.sessionId;
    const route = SESSION_TYPES.has(type) && session ? "session" : "batch";
    const metadata = { clientTimestamp: clientTs, eventId: id, priority: more.priority };
    const body = JSON.stringify(route === "batch" // as text: the caller may change the object later
      ? { itemType: "event", id, itemData: { eventId: id, eventType: type, eventData: data, metadata } }
      : { id, event_type: type, client_ts: clientTs, seq: this.#shared.nextSeq(session), session_id: session,
          question_id: more.questionId ?? null, payload: data });
    const bytes = bytesOf(body);
    if (bytes > ROW_BYTES_MAX) throw trouble("payload-too-large");
    this.#lastAt = Math.max(Date.now(), this.#lastAt + 0.001); // in the order of capture, whatever the clock does
    return { id, owner: this.#owner, route, rank: rankOf(type), at: this.#lastAt, bytes, body };
  }

  #save() {
    return (this.#saving ??= (async () => {
      await this.#ready;
      while (this.#unsaved.length) {
        const rows = [...this.#unsaved];
        try {
          await this.#queue.add(rows);
          this.#unsaved.splice(0, rows.length);
          const gone = await this.#queue.trim(this.#options.maxEvents, this.#options.maxBytes);
          if (gone.length) this.#shared.change((state) => { state.dropped += gone.length; });
        } catch (error) {
          this.#degrade(error);
          this.#unsaved = [];
        }
      }
      this.#saving = null;
      await this.#look();
    })());
  }

  /** Counts what waits, and forgets what another tab has sent or the ceiling has taken. */
  async #look() {
    const saved = [...this.#mirror.keys()].filter((id) => !this.#unsaved.some((row) => row.id === id));
    try {
      const waiting = new Set(await this.#queue.ids(this.#owner));
      for (const id of saved) if (!waiting.has(id)) this.#mirror.delete(id);
      this.#status.pending = waiting.size + this.#unsaved.length;
    } catch (error) {
      this.#degrade(error);
    }
  }

  #schedule() {
    const { pending, attempts } = this.#status;
    clearTimeout(this.#timer);
    if (this.#stop.signal.aborted) return;
    // With nothing to send it only looks: a page that is gone may have left something late.
    const due = pending && (attempts || pending >= this.#options.flushEvents) ? 0 : this.#options.flushMs;
    this.#timer = setTimeout(() => this.#flush(false), Math.max(due, this.#waitLeft(false)));
  }

  /** Milliseconds until the next attempt; a forced one waits only for what a server asked for. */
  #waitLeft(forced) {
    const { from, until, asked } = Object(this.#shared.read().waits[this.#owner]);
    const now = Date.now();
    if (now < from || (forced && !asked)) return 0; // before `from`: the clock was set back
    return Math.min(Math.max(0, until - now) || 0, WAIT_MS_MAX);
  }

  /** One attempt at a time and one more after it, so that nothing that came in between is left. */
  #flush(forced) {
    this.#forced ||= forced;
    return (this.#queued ??= Promise.resolve(this.#running).catch(() => {}).then(() => {
      const now = this.#forced;
      this.#queued = this.#forced = null;
      return (this.#running = this.#run(now));
    }));
  }

  async #run(forced) {
    const tally = { successCount: 0, failureCount: 0, error: null };
    await this.initialize();
    await this.#unstash();
    await this.#save();
    const waits = this.#waitLeft(forced) > 0;
    if (waits || (!forced && !this.#status.pending)) {
      this.#schedule();
      return { ...tally, error: waits ? "waiting" : null };
    }
    const started = performance.now();
    this.#status.syncing = true;
    this.#emit("sync:start", { pending: this.#status.pending });
    try {
      await this.#alone(() => this.#sendAll(tally));
      this.#shared.change(({ waits }) => { delete waits[this.#owner]; });
      Object.assign(this.#status, { lastSyncTime: new Date().toISOString(), lastError: null, attempts: 0 });
    } catch (error) {
      tally.error = this.#postpone(error);
    }
    const durationMs = performance.now() - started;
    this.#status.syncing = false;
    this.#status.syncs += 1;
    this.#status.syncMs += durationMs;
    await this.#look();
    this.#schedule();
    this.#emit(tally.error ? "sync:failed" : "sync:complete", { ...tally, pending: this.#status.pending, durationMs });
    return tally;
  }

  /** Notes until when to wait: full jitter over 1 s, 2 s, 4 s ... 60 s, or what the server asked for. */
  #postpone({ code, retryable = true, waitMs = null }) {
    const spread = Math.random() * Math.min(60_000, 1000 * 2 ** this.#status.attempts);
    const ms = waitMs ?? (retryable ? spread : HOLD_MS);
    const from = Date.now();
    this.#status.attempts += 1;
    this.#status.lastError = typeof code === "string" ? code : "storage-failed"; // a database's errors have numbers
    const wait = { from, until: from + ms, asked: waitMs !== null };
    this.#shared.change((state) => { state.waits = Shared.with(state.waits, this.#owner, wait); });
    console.debug(NAME, "not sent yet:", this.#status.lastError);
    return this.#status.lastError;
  }

  /** Only one tab sends at a time. Web Locks exist in secure contexts only; elsewhere a claim in the database. */
  async #alone(work) {
    if (navigator.locks) return navigator.locks.request(this.#owner, work);
    while (!(await this.#queue.claim(this.#owner, this.#tab))) await sleep(100 + Math.random() * 200);
    try {
      return await work();
    } finally {
      await this.#queue.release(this.#owner, this.#tab);
    }
  }

  async #sendAll(tally) {
    let held = null;
    for (const route of Object.keys(PATHS)) {
      try {
        for (let rows; (rows = await this.#queue.take(this.#owner, route)).length;) await this.#send(route, rows, tally);
      } catch (error) {
        if (error.retryable !== false) throw error;
        held = error; // what is wrong with one path must not hold up the other
      }
    }
    if (held) throw held;
  }

  /** Sends one group. One that is too large, or refused for a bad event in it, is halved until only that one is left. */
  async #send(route, rows, tally) {
    if (!navigator.locks) await this.#queue.claim(this.#owner, this.#tab); // renews it
    const { status, code, verdict, waitMs } = await this.#post(route, rows);
    if (verdict) return this.#settle(rows, verdict, tally);
    if (!REFUSALS.has(status) || !(code || status === 413)) {
      const name = code ?? (status === 0 ? "link-down" : status === 200 ? "answer-unproven" : `http-${status}`);
      throw trouble(name, { retryable: RETRYABLE.has(status), waitMs });
    }
    const half = Math.ceil(rows.length / 2);
    if (half === rows.length) {
      return this.#settle(rows, { delivered: 0, reasons: [{ id: rows[0].id, code: code ?? "payload-too-large" }] }, tally);
    }
    await this.#send(route, rows.slice(0, half), tally);
    return this.#send(route, rows.slice(half), tally);
  }

  async #post(route, rows, keepalive = false) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), REQUEST_MS);
    const headers = { "Content-Type": "application/json" };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    if (this.#options.userId) headers["PiSync-User"] = this.#options.userId;
    try {
      const response = await fetch(this.#options.url + PATHS[route], { method: "POST", headers, keepalive,
        body: this.#body(route, rows), redirect: "error", cache: "no-store", signal: abort.signal });
      const { status } = response;
      const answer = await response.json().catch(() => null);
      if (status === 200) return { status, verdict: verdictOf(route, rows, answer) };
      const waitMs = RETRYABLE.has(status) ? retryAfterMs(response.headers.get("Retry-After")) : null;
      return { status, waitMs, code: typeof answer?.code === "string" ? answer.code : undefined };
    } catch {
      return { status: 0 };
    } finally {
      clearTimeout(timer);
    }
  }

  #body(route, rows) {
    const inner = rows.map((row) => row.body).join(",");
    if (route === "batch") return `{"batchId":"${uuid()}","items":[${inner}]}`;
    return `{"source":${JSON.stringify(this.#options.source)},"events":[${inner}]}`;
  }

  async #settle(rows, { delivered, reasons }, tally = {}) {
    tally.successCount += delivered;
    tally.failureCount += reasons.length;
    this.#status.delivered += delivered;
    this.#refuse(reasons);
    for (const row of rows) this.#mirror.delete(row.id);
    await this.#queue.remove(rows.map((row) => row.id));
  }

  #refuse(reasons) {
    if (!reasons.length) return;
    this.#status.refused += reasons.length;
    this.#status.failures = [...this.#status.failures, ...reasons].slice(-20);
    this.#shared.change(({ rejected }) => {
      for (const { code } of reasons) {
        const name = String(code).slice(0, 64);
        const key = name in rejected || Object.keys(rejected).length < 30 ? name : "other";
        rejected[key] = (Number(rejected[key]) || 0) + 1;
      }
    });
    console.debug(NAME, "refused:", reasons);
  }

  /**
   * The page may go away now: gives the browser what this page recorded, answers first, as much as browsers take. It
   * stays in the queue until an answer proves it; ids make sending it again safe. A beacon has no headers, and to
   * another origin it would carry cookies, which intakes do not allow.
   */
  #handOver() {
    this.#stash();
    if (this.#waitLeft(true) > 0) return;
    const { url, userId } = this.#options;
    const plain = !this.#token && !userId && new URL(url).origin === location.origin;
    const rows = [...this.#mirror.values()].filter((row) => row.owner === this.#owner && !this.#handed.has(row.id));
    let room = KEEPALIVE_BYTES_MAX;
    for (const route of Object.keys(PATHS)) {
      const group = [];
      for (const row of rows.filter((each) => each.route === route).sort((a, b) => b.rank - a.rank || a.at - b.at)) {
        if (group.length === GROUP || row.bytes + 1 > room) break;
        room -= row.bytes + 1;
        group.push(row);
        this.#handed.add(row.id);
      }
      if (!group.length) continue;
      const beacon = () => new Blob([this.#body(route, group)], { type: "application/json" });
      if (plain && navigator.sendBeacon?.(url + PATHS[route], beacon())) continue;
      this.#post(route, group, true).then(({ verdict }) => verdict && this.#settle(group, verdict)).catch(() => {});
    }
  }

  #emit(name, detail) {
    for (const handler of this.#handlers.get(name) ?? []) {
      try {
        handler(detail);
      } catch (error) {
        console.debug(NAME, name, error);
      }
    }
  }
}

/** A steady beat beside the flushes of TelemetryService, with the words of the sync API. */
export class SyncService {
  #telemetry; #intervalMs; #timer = 0;

  /** @param {{telemetry?: TelemetryService, intervalMs?: number}} [options] without `telemetry`: its options */
  constructor({ telemetry, intervalMs = 300_000, ...options } = {}) {
    this.#telemetry = telemetry ?? new TelemetryService(options);
    this.#intervalMs = intervalMs;
  }

  /** Syncs now and then every `intervalMs`. @returns {Promise<void>} after the first attempt */
  async start() {
    this.#timer ||= setInterval(() => this.triggerSync(), this.#intervalMs);
    await this.triggerSync();
  }
  stop() { this.#timer = clearInterval(this.#timer) ?? 0; }
  /** @returns {Promise<{successCount: number, failureCount: number, error: string|null}>} */
  triggerSync() { return this.#telemetry.sync(); }
  on(name, handler) { return this.#telemetry.on(name, handler); }

  getStatus() {
    const { pending, delivered, refused, dropped, lastSyncTime, lastError, syncs, syncMs } = this.#telemetry.getStatus();
    const judged = delivered + refused;
    return { running: this.#timer !== 0, lastSyncTime, lastError, pendingItems: pending, totalItems: pending + judged,
      dropped, successRate: judged ? delivered / judged : null, avgSyncDuration: syncs ? Math.round(syncMs / syncs) : null };
  }

  /** `poor` after three failures in a row; `degraded` when failing, filling, refused or without a database. */
  getHealth() {
    const { attempts, storage } = this.#telemetry.getStatus();
    const status = this.getStatus();
    const weak = attempts || storage === "memory" || status.pendingItems > 500 || (status.successRate ?? 1) < 0.95;
    const syncHealth = attempts >= 3 ? "poor" : weak ? "degraded" : status.lastSyncTime ? "good" : "unknown";
    return { syncHealth, storage, ...status };
  }
}
