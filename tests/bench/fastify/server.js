// The gateway's job in Fastify, with its own proxy plugin and ioredis: the same scripts on the
// same Redis as Keystile. Pipelining is automatic: commands of one turn of the loop go together.

import { createHmac, randomFillSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { crc32 } from 'node:zlib'

import proxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import { Redis } from 'ioredis'

const { BENCH_PORT, BENCH_UPSTREAM, BENCH_SCRIPTS, BENCH_PROBLEMS, KEY_PEPPER, REDIS_URL } =
  process.env

const TAG = '{p00}'
const MOST_ENTRIES = 1_000_000
const SLACK_MS = 60_000
const RELOADS = 3
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SHAPE = /^ks_(live|test)_([0-9]{2})[0-9A-Za-z]{46}$/
const BEARER = /^bearer /i
const DROPPED = [
  'authorization', 'x-api-key', 'cookie', 'forwarded', 'x-real-ip', 'connection', 'keep-alive',
]
const DROPPED_FROM_ANSWER = [
  'keystile-units', 'keystile-metadata', 'ratelimit', 'ratelimit-policy', 'x-ratelimit-limit',
  'x-ratelimit-remaining', 'x-ratelimit-reset', 'set-cookie', 'connection', 'keep-alive',
]

const problems = JSON.parse(readFileSync(BENCH_PROBLEMS, 'utf8'))
const redis = new Redis(REDIS_URL, {
  enableAutoPipelining: true,
  maxRetriesPerRequest: null,
  autoResendUnfulfilledCommands: false, // a written admission is never sent again
  scripts: {
    admit: { lua: readFileSync(`${BENCH_SCRIPTS}/admit.lua`, 'utf8'), numberOfKeys: 1 },
    settle: { lua: readFileSync(`${BENCH_SCRIPTS}/settle.lua`, 'utf8'), numberOfKeys: 2 },
  },
})

let table = { version: '', apis: new Map() }

// ------------------------------------------------------------------ what the scripts are given

/** admit.lua: one key, then its ARGV, in the order of gateway/admit.py. Nothing else knows them. */
function admitArguments(digest, eventId, api, operation, refusal) {
  return [
    `key:${TAG}:${digest}`,
    TAG, eventId, table.version, '', api?.slug ?? '', operation?.label ?? '',
    (api?.longestMs ?? 0) + SLACK_MS, MOST_ENTRIES,
    refusal ?? '', refusal ? problems[refusal].status : 0,
    operation?.unitsJson ?? '{"calls":0}', '', '', ...(operation?.units ?? ['calls', 0]),
  ]
}

/** settle.lua: two keys, then its ARGV, in the order of gateway/settle.py, likewise. */
function settleArguments({ eventId, operation, isLive, startedNs }, status, bytes) {
  const isCharged = status < 500 && status !== 408 && status !== 429 && status !== 499
  const latencyUs = Number((process.hrtime.bigint() - startedNs) / 1000n)
  const end =
    `{"outcome":"completed","status":${status},"code":"","billable":${isCharged && isLive},` +
    `"units":${operation.unitsJson},"meta":{},"latency_us":${latencyUs},"upstream_us":0,` +
    `"in":0,"out":${bytes}}`
  const given = [`open:${TAG}`, `usage:${TAG}`, TAG, eventId, end]
  if (!isCharged) {
    operation.units.forEach((part, i) => given.push(i % 2 ? -part : part))
  }
  return given
}

// ------------------------------------------------------------------ keys, ids, routes

function isKey(text) {
  const shape = SHAPE.exec(text)
  if (shape === null) return null
  let rest = crc32(text.slice(0, -6))
  for (let i = text.length - 1; i >= text.length - 6; i--) {
    if (text[i] !== BASE62[rest % 62]) return null
    rest = Math.floor(rest / 62)
  }
  return shape
}

const random = Buffer.alloc(4000)
let used = random.length

/** A UUID of version 7 (RFC 9562 section 5.7). */
function newEventId() {
  if (used === random.length) {
    randomFillSync(random)
    used = 0
  }
  random[used] = 0x70 | (random[used] & 0x0f)
  random[used + 2] = 0x80 | (random[used + 2] & 0x3f)
  const hex = random.hexSlice(used, (used += 10))
  const ms = Date.now().toString(16).padStart(12, '0')
  return (
    `${ms.slice(0, 8)}-${ms.slice(8)}-${hex.slice(0, 4)}-${hex.slice(4, 8)}-${hex.slice(8)}`
  )
}

function operationOf(label, weights, maxUnits) {
  const units = { calls: 1, ...weights, ...maxUnits }
  return { label, units: Object.entries(units).flat(), unitsJson: JSON.stringify(units) }
}

function compile(row) {
  const fixed = new Map()
  const templated = new Map()
  for (const [method, template, weights, maxUnits] of row.operations) {
    const operation = operationOf(`${method} ${template}`, weights, maxUnits)
    if (!template.includes('{')) {
      fixed.set(`${method} ${template}`, operation)
      continue
    }
    const parts = template.split(/\{[^{}]*\}/)
    const escaped = parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    if (!templated.has(method)) templated.set(method, [])
    templated.get(method).push([new RegExp(`^${escaped.join('[^/]+')}$`), operation])
  }
  return {
    slug: row.slug,
    fixed,
    templated,
    other: row.unlisted === 'forward' ? operationOf('other', {}, {}) : null,
    longestMs: (row.idle_s + row.connect_s + row.total_s) * 1000,
  }
}

let reloading = null

async function loadRoutes() {
  const [version, blob] = await redis.hmget(`routes:${TAG}`, 'version', 'blob')
  if (version !== null) {
    table = { version, apis: new Map(JSON.parse(blob).map((row) => [row.slug, compile(row)])) }
  }
}

function match(method, url) {
  const mark = url.indexOf('?')
  const path = mark < 0 ? url : url.slice(0, mark)
  const slash = path.indexOf('/', 1)
  const api = table.apis.get(slash < 0 ? path.slice(1) : path.slice(1, slash))
  if (api === undefined) return [null, null, 'unknown_api']
  const rest = slash < 0 ? '/' : path.slice(slash)
  const fixed = api.fixed.get(`${method} ${rest}`)
  if (fixed !== undefined) return [api, fixed, null]
  for (const [pattern, operation] of api.templated.get(method) ?? []) {
    if (pattern.test(rest)) return [api, operation, null]
  }
  return api.other === null ? [api, null, 'unknown_operation'] : [api, api.other, null]
}

// ------------------------------------------------------------------ the call

function refuse(reply, code, waitSeconds = 0) {
  const { status, body } = problems[code]
  reply.code(status).header('content-type', 'application/problem+json')
  reply.header('cache-control', 'no-store')
  if (waitSeconds > 0) reply.header('retry-after', waitSeconds)
  if (status === 401) reply.header('www-authenticate', 'Bearer realm="keystile"')
  return reply.send(body)
}

function limitHeaders(reply, limits) {
  const [burst, burstWindowS, callsLeft, resetS, quota, quotaLeft, windowS, quotaResetS, quotaFirst] =
    limits
  let policy = `"burst";q=${burst};w=${burstWindowS}`
  let state = `"burst";r=${callsLeft};t=${resetS}`
  let [limit, left, reset] = [burst, callsLeft, resetS]
  if (quota !== null && quotaLeft !== null) {
    policy += `, "quota";q=${quota};w=${windowS}`
    state += `, "quota";r=${quotaLeft};t=${quotaResetS}`
    if (quotaFirst) [limit, left, reset] = [quota, quotaLeft, quotaResetS]
  }
  reply.header('ratelimit-policy', policy).header('ratelimit', state)
  reply.header('x-ratelimit-limit', limit).header('x-ratelimit-remaining', left)
  reply.header('x-ratelimit-reset', reset)
  if (quotaLeft !== null) reply.header('keystile-quota-remaining', quotaLeft)
}

async function admit(request, reply) {
  const startedNs = process.hrtime.bigint()
  const { authorization, 'x-api-key': own } = request.headers
  const text = own ?? (BEARER.test(authorization ?? '') ? authorization.slice(7) : undefined)
  if (text === undefined) return refuse(reply, 'missing_key')
  const shape = isKey(text)
  if (shape === null) return refuse(reply, 'malformed_key')
  if (shape[2] !== '00') return refuse(reply, 'unknown_key')

  const digest = createHmac('sha256', KEY_PEPPER).update(text).digest('hex')
  const eventId = newEventId()
  let verdict
  let operation
  for (let i = 0; i < RELOADS; i++) {
    const [api, found, refusal] = match(request.method, request.url)
    operation = found
    try {
      verdict = await redis.admit(admitArguments(digest, eventId, api, found, refusal))
    } catch (error) {
      request.log.error(error)
      return refuse(reply, 'limits_unavailable', 1)
    }
    if (verdict[0] !== 'routes') break
    reloading ??= loadRoutes().finally(() => { reloading = null })
    await reloading
  }
  const [code, waitSeconds, key, account, mode, plan, ...limits] = verdict
  if (code === 'routes' || code === 'unavailable') return refuse(reply, 'limits_unavailable', 1)
  if (limits.length > 0) limitHeaders(reply, limits)
  if (mode !== undefined) reply.header('keystile-mode', mode)
  if (code !== '') return refuse(reply, code, waitSeconds)
  reply.header('keystile-event', eventId)
  request.identity = { key, account, mode, plan, eventId }
  const admission = { eventId, operation, isLive: mode === 'live', startedNs }
  // Fastify's onResponse does not tell of a client that has left; “close” comes in any case.
  if (reply.raw.closed) settle(admission, reply)
  else reply.raw.once('close', () => settle(admission, reply))
}

function settle(admission, reply) {
  const status = reply.raw.headersSent ? reply.raw.statusCode : 499
  const bytes = Number(reply.getHeader('content-length') ?? 0)
  const given = settleArguments(admission, status, bytes)
  // settle.lua may be repeated: without the open it does nothing.
  const send = () => redis.settle(given).catch(() => setTimeout(send, 1000))
  send()
}

function headersForBackend(request, headers) {
  const kept = { ...headers }
  for (const name of DROPPED) delete kept[name]
  const { key, account, mode, plan, eventId } = request.identity
  kept['x-forwarded-for'] = request.ip
  kept['x-forwarded-proto'] = request.protocol
  kept['x-forwarded-host'] = headers.host
  kept['keystile-account'] = account
  kept['keystile-key'] = key
  kept['keystile-plan'] = plan
  kept['keystile-event'] = eventId
  kept['keystile-mode'] = mode
  return kept
}

function headersForClient(headers) {
  const kept = { ...headers }
  for (const name of DROPPED_FROM_ANSWER) delete kept[name]
  return kept
}

const app = Fastify({ logger: { level: 'error' }, keepAliveTimeout: 300_000 })
app.decorateRequest('identity', null)
app.setNotFoundHandler({ preHandler: admit }, () => {})
app.register(proxy, {
  upstream: BENCH_UPSTREAM,
  prefix: '/demo',
  rewritePrefix: '/',
  preHandler: admit,
  undici: { connections: 512, pipelining: 1, keepAliveTimeout: 300_000 },
  replyOptions: {
    rewriteRequestHeaders: headersForBackend,
    rewriteHeaders: headersForClient,
  },
})
await app.listen({ host: '127.0.0.1', port: Number(BENCH_PORT), backlog: 2048 })
