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

const GROUP = 50; // events per request
const PAYLOAD_BYTES_MAX = 4096; // of one event, as the contract has it
const ROW_BYTES_MAX = 8192; // of one event with its envelope
const KEEPALIVE_BYTES_MAX = 60_000; // browsers refuse more than 64 KiB for a page that goes away
const REQUEST_MS = 30_000; // after this a request counts as a broken link
const CLAIM_MS = 60_000; // a tab that died while it sent blocks the others for this long at most
const BACKOFF_MS = { base: 1000, cap: 60_000 };
const HOLD_MS = 300_000; // a refused token or a strange answer: asked again after this, or by setToken
const WAIT_MS_MAX = 86_400_000; // timers beyond 24 days would fire at once
const RETRYABLE = new Set([0, 408, 429, 502, 503, 504]); // 0: no answer at all
const REFUSALS = new Set([400, 409, 422]);
const NAME = "pisync-telemetry";

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));
const bytesOf = (text) => new TextEncoder().encode(text).length;
const debug = (...words) => console.debug(NAME, ...words);
const rankOf = (type) => (BEHAVIOUR.has(type) ? 0 : ANSWERS.has(type) ? 2 : 1); // the lowest is dropped first

/** A random UUID, also on http:// of a LAN address, where crypto.randomUUID does not exist. */
function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** The user of a JWT, or "": what one learner left must not be sent in the name of the next one at this computer. */
function subjectOf(token) {
  try {
    return String(JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).sub ?? "");
  } catch {
    return "";
  }
}

/** The rows that must go so that the rest fits: behaviour first, answers last, the oldest of each first. */
function surplus(rows, maxEvents, maxBytes) {
  let events = rows.length;
  let bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  return [...rows].sort((a, b) => a.rank - b.rank || a.at - b.at).filter((row) => {
    if (events <= maxEvents && bytes <= maxBytes) return false;
    events -= 1;
    bytes -= row.bytes;
    return true;
  });
}

/** What a 200 says about the rows of its request: {delivered, reasons}, or null: it is no answer of ours. */
function verdictOf(route, rows, answer) {
  if (route === "session") {
    const { accepted, rejected, rejected_reasons_sample: sample } = answer ?? {};
    if (!Number.isInteger(accepted) || !Number.isInteger(rejected) || accepted + rejected !== rows.length) return null;
    const listed = Array.isArray(sample) ? sample.slice(0, rejected) : [];
    const reasons = listed.map((reason) => ({ id: rows[reason?.index]?.id, code: reason?.code, detail: reason?.detail }));
    while (reasons.length < rejected) reasons.push({ code: "not-listed" });
    return { delivered: accepted, reasons };
  }
  const results = answer?.data?.results;
  const byId = new Map(Array.isArray(results) ? results.map((result) => [result?.itemId, result]) : []);
  if (!rows.every((row) => byId.has(row.id))) return null;
  const bad = rows.map((row) => byId.get(row.id)).filter(({ status }) => status !== "synced" && status !== "duplicate");
  return { delivered: rows.length - bad.length,
    reasons: bad.map(({ itemId, status, code, detail }) => ({ id: itemId, code: code ?? status, detail })) };
}

/** Retry-After in milliseconds, seconds or a date, or null. */
function retryAfterMs(header) {
  if (!header) return null;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), WAIT_MS_MAX) : null;
}

/** The small numbers that every tab and every page shares: next seq per session, losses, until when to wait. */
class Shared {
  #spare = {};
  #stored = true;

  read() {
    let state = this.#spare;
    try {
      if (this.#stored) state = JSON.parse(localStorage.getItem(NAME)) ?? {};
    } catch {
      this.#stored = false; // private mode or damaged: this page counts for itself
    }
    return { seqs: {}, dropped: 0, rejected: {}, wait: null, ...state };
  }

  change(edit) {
    const state = this.read();
    edit(state);
    this.#spare = state;
    try {
      if (this.#stored) localStorage.setItem(NAME, JSON.stringify(state));
    } catch {
      this.#stored = false;
    }
  }

  nextSeq(session) {
    let seq = 1;
    this.change((state) => {
      seq = (state.seqs[session] ?? 0) + 1;
      delete state.seqs[session]; // so that the oldest sessions come first and can be forgotten
      state.seqs[session] = seq;
      for (const old of Object.keys(state.seqs).slice(0, -50)) delete state.seqs[old];
    });
    return seq;
  }
}

/** The queue of a page that has no IndexedDB: gone with the page. */
class MemoryQueue {
  #rows = new Map();
  constructor(rows = []) { this.add(rows); }
  async add(rows) { for (const row of rows) this.#rows.set(row.id, row); }
  async take(owner, route) {
    return [...this.#rows.values()].filter((row) => row.owner === owner && row.route === route).slice(0, GROUP);
  }
  async remove(ids) { for (const id of ids) this.#rows.delete(id); }
  async count(owner) { return [...this.#rows.values()].filter((row) => row.owner === owner).length; }
  async trim(maxEvents, maxBytes) {
    const gone = surplus([...this.#rows.values()], maxEvents, maxBytes).map((row) => row.id);
    await this.remove(gone);
    return gone;
  }
  async claim() { return true; }
  async release() {}
}

const answered = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** The queue in IndexedDB, one for all tabs of an origin and all users of this browser. */
class StoredQueue {
  #db;
  constructor(db) { this.#db = db; }

  static open() {
    return new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error("IndexedDB does not answer")), 5000);
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => {
        const events = request.result.createObjectStore("events", { keyPath: "id" });
        events.createIndex("queue", ["owner", "route", "at"]);
        request.result.createObjectStore("claims", { keyPath: "name" });
      };
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        request.result.onversionchange = () => request.result.close();
        resolve(new StoredQueue(request.result));
      };
    });
  }

  /** One transaction; `work` gets the store. Strict: a school's power is cut several times a day. */
  async #change(name, work) {
    const transaction = this.#db.transaction(name, "readwrite", { durability: "strict" });
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
    });
    ended.catch(() => {}); // it is awaited below, unless `work` fails first
    const value = work(transaction.objectStore(name));
    // Without this a page that goes away takes its last events with it.
    if (!(value instanceof Promise)) transaction.commit?.();
    const result = await value;
    await ended;
    return result;
  }

  add(rows) { return this.#change("events", (store) => { for (const row of rows) store.put(row); }); }
  remove(ids) { return this.#change("events", (store) => { for (const id of ids) store.delete(id); }); }

  #index() { return this.#db.transaction("events").objectStore("events").index("queue"); }
  take(owner, route) {
    return answered(this.#index().getAll(IDBKeyRange.bound([owner, route], [owner, route, []]), GROUP));
  }
  count(owner) { return answered(this.#index().count(IDBKeyRange.bound([owner], [owner, []]))); }

  trim(maxEvents, maxBytes) {
    return this.#change("events", async (store) => {
      const count = await answered(store.count());
      if (count <= maxEvents && count * ROW_BYTES_MAX <= maxBytes) return [];
      const gone = surplus(await answered(store.getAll()), maxEvents, maxBytes).map((row) => row.id);
      for (const id of gone) store.delete(id);
      return gone;
    });
  }

  /** For browsers and origins without Web Locks: true if this tab may send now. */
  claim(name, tab) {
    return this.#change("claims", async (store) => {
      const held = await answered(store.get(name));
      const left = held ? held.until - Date.now() : 0;
      if (held && held.tab !== tab && left > 0 && left <= CLAIM_MS) return false; // more is a clock that was set back
      store.put({ name, tab, until: Date.now() + CLAIM_MS });
      return true;
    });
  }
  release(name) { return this.#change("claims", (store) => { store.delete(name); }); }
}

/** Why a sync ended early. `waitMs` is what the server asked for, or null. */
class Trouble extends Error {
  constructor(code, { retryable, waitMs = null }) {
    super(code);
    Object.assign(this, { code, retryable, waitMs });
  }
}

/** Records events and sends them: at 10 events, after 12 s, on submit, when the page is hidden or left. */
export class TelemetryService {
  #options; #owner; #token; #queue = null; #ready = null; #shared = new Shared(); #tab = uuid();
  #mirror = new Map(); // what this page recorded and nobody has acknowledged: a page that goes away cannot read a database
  #unsaved = []; #saving = null; #running = null; #queued = null; #timer = 0; #lastAt = 0; #handed = new Set(); #handlers = new Map();
  #status = { pending: 0, delivered: 0, failures: [], storage: "opening", storageReason: null, syncing: false,
    lastSyncTime: null, lastError: null, attempts: 0, syncs: 0, syncMs: 0 };
  #channel = "BroadcastChannel" in globalThis ? new BroadcastChannel(NAME) : null;
  #stop = new AbortController();

  /**
   * @param {object} [options]
   * @param {string} [options.url] who takes the events; by default whoever served this module
   * @param {string} [options.token] a JWT, or the device's token for this application; kept in memory only
   * @param {string} [options.userId] the learner's UUID, sent as PiSync-User
   * @param {string} [options.sessionId] the UUID of the session that the upper-case event types belong to
   * @param {string} [options.source="web"]
   * @param {number} [options.flushEvents=10] send when so many wait
   * @param {number} [options.flushMs=12000] send when the oldest has waited so long
   * @param {number} [options.maxEvents=1000] ceiling; above it behaviour is dropped first, answers last
   * @param {number} [options.maxBytes=5242880] the same in bytes
   */
  constructor(options = {}) {
    this.#options = { url: new URL(import.meta.url).origin, source: "web", flushEvents: 10, flushMs: 12_000,
      maxEvents: 1000, maxBytes: 5_242_880,
      ...Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined)) };
    this.#options.url = this.#options.url.replace(/\/+$/, "");
    this.setToken(this.#options.token);
  }

  /** Opens the queue and sends what an earlier page left. Never rejects. @returns {Promise<void>} */
  initialize() {
    this.#ready ??= this.#open();
    return this.#ready;
  }

  /**
   * @param {string} eventType one of the session types, or any name of your own
   * @param {object} [eventData] at most 4096 bytes as JSON, no personal data
   * @param {{questionId?: string, sessionId?: string, eventId?: string, priority?: number, clientTimestamp?: string}} [metadata]
   * @returns {string} the event's id
   */
  captureEvent(eventType, eventData = {}, metadata = {}) {
    let id = "";
    try {
      const more = metadata ?? {};
      id = typeof more.eventId === "string" && more.eventId ? more.eventId : uuid();
      const row = this.#row(id, eventType, eventData ?? {}, more);
      this.#mirror.set(id, row);
      this.#unsaved.push(row);
      this.#status.pending += 1;
      this.initialize();
      this.#save();
      this.#schedule();
    } catch (error) {
      this.#refuse([{ id, code: error instanceof Trouble ? error.code : "event-invalid", detail: String(error) }]);
    }
    return id;
  }

  /** @param {Array<{eventType: string, eventData?: object, metadata?: object}>} events @returns {string[]} their ids */
  captureEvents(events) {
    return Array.from(events ?? [], (event) => this.captureEvent(event?.eventType, event?.eventData, event?.metadata));
  }

  /** The same as captureEvent, by the name that session players know. @returns {string} */
  track(type, payload, metadata) { return this.captureEvent(type, payload, metadata); }

  /**
   * Sends all that waits now, whatever the backoff; only a server's own Retry-After is kept. Never rejects.
   * @returns {Promise<{successCount: number, failureCount: number, error: string|null}>}
   */
  sync() { return this.#flush(true); }

  /**
   * Before a redirect: sends everything; what is not acknowledged in time is handed to the browser to send.
   * @param {{timeoutMs?: number}} [options] @returns {Promise<boolean>} true if nothing waits any more
   */
  async submit({ timeoutMs = 3000 } = {}) {
    const done = await Promise.race([this.sync().then(() => this.#status.pending === 0), sleep(timeoutMs)]);
    if (!done) this.#handOver();
    return done === true;
  }

  /** Numbers, in memory: `dropped` and `rejected` (by reason) count for all pages of this origin. */
  getStatus() {
    const { dropped, rejected } = this.#shared.read();
    return { ...this.#status, failures: [...this.#status.failures], dropped, rejected, waitMs: this.#waitLeft(false) };
  }

  /** @param {"sync:start"|"sync:complete"|"sync:failed"} name @param {Function} handler @returns {() => void} unsubscribe */
  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => this.#handlers.get(name).delete(handler);
  }

  /** A renewed token; what waited for it is sent. @param {string} [token] */
  setToken(token) {
    this.#token = token;
    this.#owner = `${this.#options.url} ${this.#options.userId ?? subjectOf(token)}`;
    if (this.#ready) this.#flush(true);
  }

  /** Records PAUSE_BLUR when the learner looks away and comes back. @returns {() => void} stop */
  watchBlur() {
    const note = (event) => this.captureEvent("PAUSE_BLUR", { state: event.type });
    for (const name of ["blur", "focus"]) addEventListener(name, note, { signal: this.#stop.signal });
    return () => ["blur", "focus"].forEach((name) => removeEventListener(name, note));
  }

  /** Hands over what waits and lets go of the page's events. */
  close() {
    this.#handOver();
    clearTimeout(this.#timer);
    this.#stop.abort();
    this.#channel?.close();
    this.#channel = null;
  }

  async #open() {
    try {
      this.#queue = await StoredQueue.open();
      this.#status.storage = "indexeddb";
    } catch (error) {
      this.#degrade(error);
    }
    const listen = (target, name, handler) => target.addEventListener(name, handler, { signal: this.#stop.signal });
    listen(globalThis, "online", () => this.#flush(true));
    listen(globalThis, "pagehide", () => this.#handOver());
    listen(document, "visibilitychange", () => {
      if (document.visibilityState === "hidden") return this.#handOver();
      this.#handed.clear();
      return this.#schedule();
    });
    if (this.#channel) this.#channel.onmessage = ({ data }) => this.#forget(data);
    await this.#count();
    if (this.#status.pending > this.#unsaved.length) this.#flush(false);
  }

  /** Without a database the page goes on in memory; what the database holds waits for the next page. */
  #degrade(error) {
    this.#queue = new MemoryQueue(this.#mirror.values());
    Object.assign(this.#status, { storage: "memory", storageReason: String(error?.message ?? error) });
    debug("keeps events in memory only", error);
  }

  #row(id, type, data, more) {
    if (typeof type !== "string" || !type) throw new Trouble("event-invalid", { retryable: false });
    const at = (this.#lastAt = Math.max(Date.now(), this.#lastAt + 0.001)); // in order, whatever the clock does
    const clientTs = more.clientTimestamp ?? new Date().toISOString();
    const session = more.sessionId ?? this.#options.sessionId;
    const route = SESSION_TYPES.has(type) && session ? "session" : "batch";
    if (bytesOf(JSON.stringify(data)) > PAYLOAD_BYTES_MAX) throw new Trouble("payload-too-large", { retryable: false });
    const wire = route === "session"
      ? { id, event_type: type, client_ts: clientTs, seq: this.#shared.nextSeq(session), session_id: session,
          question_id: more.questionId ?? null, payload: data }
      : { itemType: "event", id, itemData: { eventId: id, eventType: type, eventData: data,
          metadata: { clientTimestamp: clientTs, eventId: id, priority: more.priority } } };
    const body = JSON.stringify(wire); // as text: the caller may change the object later
    const bytes = bytesOf(body);
    if (bytes > ROW_BYTES_MAX) throw new Trouble("payload-too-large", { retryable: false });
    return { id, owner: this.#owner, route, rank: rankOf(type), at, bytes, body };
  }

  #save() {
    this.#saving ??= (async () => {
      await this.#ready;
      while (this.#unsaved.length) {
        try {
          await this.#queue.add(this.#unsaved.splice(0));
          const gone = await this.#queue.trim(this.#options.maxEvents, this.#options.maxBytes);
          if (gone.length) this.#shared.change((state) => { state.dropped += gone.length; });
          this.#tellGone(gone);
        } catch (error) {
          this.#degrade(error);
        }
      }
      this.#saving = null;
      await this.#count();
    })();
    return this.#saving;
  }

  async #count() {
    try {
      this.#status.pending = await this.#queue.count(this.#owner) + this.#unsaved.length;
    } catch (error) {
      this.#degrade(error);
    }
  }

  #schedule() {
    const { pending } = this.#status;
    clearTimeout(this.#timer);
    if (!pending || this.#stop.signal.aborted) return;
    const due = pending >= this.#options.flushEvents || this.#status.attempts ? 0 : this.#options.flushMs;
    this.#timer = setTimeout(() => this.#flush(false), Math.max(due, this.#waitLeft(false)));
  }

  /** Milliseconds until the next attempt; `forced` attempts wait only for what a server asked for. */
  #waitLeft(forced) {
    const { wait } = this.#shared.read();
    const now = Date.now();
    if (!wait || wait.owner !== this.#owner || now < wait.from || (forced && !wait.asked)) return 0; // or the clock was set back
    return Math.max(0, wait.until - now);
  }

  /** One attempt at a time, and one more after it, so that nothing that came in between is left. */
  #flush(forced) {
    this.#queued ??= Promise.resolve(this.#running).then(() => {
      this.#queued = null;
      this.#running = this.#run(forced);
      return this.#running;
    });
    return this.#queued;
  }

  async #run(forced) {
    const tally = { successCount: 0, failureCount: 0, error: null };
    await this.initialize();
    await this.#save();
    if (this.#waitLeft(forced) > 0) {
      this.#schedule();
      return { ...tally, error: "waiting" };
    }
    const started = performance.now();
    this.#status.syncing = true;
    this.#emit("sync:start", { pending: this.#status.pending });
    try {
      await this.#alone(() => this.#sendAll(tally));
      this.#shared.change((state) => { state.wait = null; });
      Object.assign(this.#status, { lastSyncTime: new Date().toISOString(), lastError: null, attempts: 0 });
    } catch (error) {
      tally.error = this.#postpone(error);
    }
    this.#status.syncs += 1;
    this.#status.syncMs += performance.now() - started;
    this.#status.syncing = false;
    await this.#count();
    this.#schedule();
    this.#emit(tally.error ? "sync:failed" : "sync:complete",
      { ...tally, pending: this.#status.pending, durationMs: performance.now() - started });
    return tally;
  }

  /** Notes until when to wait: full jitter over 1 s, 2 s, 4 s ... 60 s, or what the server asked for. */
  #postpone(error) {
    const { code = String(error), retryable = false, waitMs = null } = error;
    const spread = Math.random() * Math.min(BACKOFF_MS.cap, BACKOFF_MS.base * 2 ** this.#status.attempts);
    const ms = waitMs ?? (retryable ? spread : HOLD_MS);
    this.#status.attempts += 1;
    this.#status.lastError = code;
    const from = Date.now();
    this.#shared.change((state) => {
      state.wait = { owner: this.#owner, from, until: from + ms, asked: waitMs !== null };
    });
    debug("not sent yet", code, `again in ${Math.round(ms)} ms`);
    return code;
  }

  /** Only one tab sends at a time. Web Locks exist in secure contexts only: elsewhere a claim in the database. */
  async #alone(work) {
    if (navigator.locks) return navigator.locks.request(this.#owner, work);
    while (!(await this.#queue.claim(this.#owner, this.#tab))) await sleep(100 + Math.random() * 200);
    try {
      return await work();
    } finally {
      await this.#queue.release(this.#owner);
    }
  }

  async #sendAll(tally) {
    let held = null;
    for (const route of ["session", "batch"]) {
      try {
        for (let rows; (rows = await this.#queue.take(this.#owner, route)).length;) await this.#send(route, rows, tally);
      } catch (error) {
        if (error.retryable !== false) throw error;
        held = error; // an answer that concerns one path must not hold up the other
      }
    }
    if (held) throw held;
  }

  /** Sends one group; a group that is too large or holds a bad event is halved until only the bad one is refused. */
  async #send(route, rows, tally) {
    if (!navigator.locks) await this.#queue.claim(this.#owner, this.#tab);
    const { status, code, verdict, waitMs } = await this.#post(route, rows);
    if (verdict) return this.#settle(rows, verdict, tally);
    if (status === 413 || (REFUSALS.has(status) && code)) {
      if (rows.length === 1) {
        const reasons = [{ id: rows[0].id, code: code ?? "payload-too-large" }];
        return this.#settle(rows, { delivered: 0, reasons }, tally);
      }
      const half = Math.ceil(rows.length / 2);
      await this.#send(route, rows.slice(0, half), tally);
      return this.#send(route, rows.slice(half), tally);
    }
    // A 200 that does not account for every event is a portal or a cut: no proof, so nothing leaves the queue.
    const retryable = RETRYABLE.has(status) || status === 200;
    throw new Trouble(code ?? (status === 0 ? "link-down" : status === 200 ? "answer-unproven" : `http-${status}`),
      { retryable, waitMs });
  }

  async #post(route, rows, keepalive = false) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), REQUEST_MS);
    try {
      const response = await fetch(this.#options.url + PATHS[route], { method: "POST", headers: this.#headers(),
        body: this.#body(route, rows), keepalive, redirect: "error", cache: "no-store", signal: abort.signal });
      const answer = await response.json().catch(() => null);
      const { status } = response;
      if (status === 200) return { status, verdict: verdictOf(route, rows, answer) };
      const waitMs = RETRYABLE.has(status) ? retryAfterMs(response.headers.get("Retry-After")) : null;
      return { status, waitMs, code: typeof answer?.code === "string" ? answer.code : undefined };
    } catch {
      return { status: 0 };
    } finally {
      clearTimeout(timer);
    }
  }

  #headers() {
    return { "Content-Type": "application/json",
      ...(this.#token && { Authorization: `Bearer ${this.#token}` }),
      ...(this.#options.userId && { "PiSync-User": this.#options.userId }) };
  }

  #body(route, rows) {
    const inner = rows.map((row) => row.body).join(",");
    return route === "session"
      ? `{"source":${JSON.stringify(this.#options.source)},"events":[${inner}]}`
      : `{"batchId":"${uuid()}","items":[${inner}]}`;
  }

  async #settle(rows, { delivered, reasons }, tally = {}) {
    const ids = rows.map((row) => row.id);
    tally.successCount += delivered;
    tally.failureCount += reasons.length;
    this.#status.delivered += delivered;
    this.#refuse(reasons);
    await this.#queue.remove(ids);
    this.#tellGone(ids);
  }

  #refuse(reasons) {
    if (!reasons.length) return;
    this.#status.failures = [...this.#status.failures, ...reasons].slice(-20);
    this.#shared.change(({ rejected }) => {
      for (const { code } of reasons) {
        const known = String(code ?? "not-listed").slice(0, 64);
        const key = known in rejected || Object.keys(rejected).length < 30 ? known : "other";
        rejected[key] = (rejected[key] ?? 0) + 1;
      }
    });
    debug("refused", reasons);
  }

  #forget(ids) {
    for (const id of ids) this.#mirror.delete(id);
    if (ids.length) this.#count();
  }

  #tellGone(ids) {
    this.#forget(ids);
    if (ids.length) this.#channel?.postMessage(ids);
  }

  /**
   * The page may go away now: gives the browser what it recorded, answers first, up to the 64 KiB that browsers take.
   * It stays in the queue until an answer proves it; ids make sending it again safe.
   */
  #handOver() {
    if (this.#queue && this.#unsaved.length) this.#queue.add(this.#unsaved.splice(0)).catch(debug);
    if (this.#waitLeft(true) > 0) return;
    const rows = [...this.#mirror.values()].filter((row) => row.owner === this.#owner && !this.#handed.has(row.id));
    rows.sort((a, b) => b.rank - a.rank || a.at - b.at);
    let room = KEEPALIVE_BYTES_MAX;
    const fitting = rows.filter((row) => row.bytes < room && (room -= row.bytes + 1));
    for (const route of Object.keys(PATHS)) {
      const group = fitting.filter((row) => row.route === route).slice(0, GROUP);
      if (!group.length) continue;
      for (const row of group) this.#handed.add(row.id);
      if (!this.#beacon(route, group)) {
        this.#post(route, group, true).then(({ verdict }) => verdict && this.#settle(group, verdict)).catch(debug);
      }
    }
  }

  /** A beacon has no headers, and to another origin it would need credentials that intakes do not allow. */
  #beacon(route, rows) {
    const { url, userId } = this.#options;
    if (this.#token || userId || new URL(url, location.href).origin !== location.origin) return false;
    try {
      return navigator.sendBeacon(url + PATHS[route], new Blob([this.#body(route, rows)], { type: "application/json" }));
    } catch {
      return false;
    }
  }

  #emit(name, detail) {
    for (const handler of this.#handlers.get(name) ?? []) {
      try {
        handler(detail);
      } catch (error) {
        debug(name, error);
      }
    }
  }
}

/** A steady beat beside the event-driven flushes, with the words of the sync API. */
export class SyncService {
  #telemetry; #intervalMs; #timer = 0;

  /** @param {{telemetry?: TelemetryService, intervalMs?: number}} [options] else the options of TelemetryService */
  constructor({ telemetry, intervalMs = 300_000, ...options } = {}) {
    this.#telemetry = telemetry ?? new TelemetryService(options);
    this.#intervalMs = intervalMs;
  }

  /** Syncs now and then every `intervalMs`. @returns {Promise<void>} */
  async start() {
    await this.#telemetry.initialize();
    if (this.#timer) return;
    this.#timer = setInterval(() => this.triggerSync(), this.#intervalMs);
    await this.triggerSync();
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  /** @returns {Promise<{successCount: number, failureCount: number, error: string|null}>} */
  triggerSync() { return this.#telemetry.sync(); }

  on(name, handler) { return this.#telemetry.on(name, handler); }

  getStatus() {
    const { pending, delivered, rejected, dropped, lastSyncTime, lastError, syncs, syncMs } = this.#telemetry.getStatus();
    const refused = Object.values(rejected).reduce((sum, count) => sum + count, 0);
    return { running: this.#timer !== 0, lastSyncTime, pendingItems: pending, totalItems: pending + delivered + refused,
      successRate: delivered + refused ? delivered / (delivered + refused) : null,
      avgSyncDuration: syncs ? Math.round(syncMs / syncs) : null, lastError, dropped };
  }

  /** `unknown` before the first answer, `poor` after three failures in a row, `degraded` when failing, full or refused. */
  getHealth() {
    const { attempts, storage, lastSyncTime } = this.#telemetry.getStatus();
    const status = this.getStatus();
    const weak = attempts > 0 || status.pendingItems > 500 || storage === "memory" || (status.successRate ?? 1) < 0.95;
    const syncHealth = attempts >= 3 ? "poor" : weak ? "degraded" : lastSyncTime ? "good" : "unknown";
    return { syncHealth, storage, ...status };
  }
}
