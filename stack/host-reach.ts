/** From where a host can be reached, as far as its name or address tells; nothing is looked up. */
import { BlockList, isIP } from 'node:net'

/**
 * `loopback`: from this machine alone, whatever a name server says. `machine`: this machine by a name or an address that others have a
 * meaning of their own for, or none. `network`: from inside a private network. `public`: anything else.
 */
export type Reach = 'loopback' | 'machine' | 'network' | 'public'

const nets = (subnets: string): BlockList => {
  const list = new BlockList()
  for (const subnet of subnets.split(' ')) {
    const [address = '', bits] = subnet.split('/')
    list.addSubnet(address, Number(bits), address.includes(':') ? 'ipv6' : 'ipv4')
  }
  return list
}
// BlockList finds ::ffff:127.0.0.1 among the addresses of version 4, too.
const loopback = nets('127.0.0.0/8 ::1/128')
const unspecified = nets('0.0.0.0/8 ::/128')
const inside = nets('10.0.0.0/8 100.64.0.0/10 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 fc00::/7 fe80::/10')

/** `host` as a URL has it. Of a scheme of its own URL leaves 2130706433 and 0x7f.1 as they stand, which a resolver does not. */
export function reachOf(host: string): Reach {
  const name = (URL.parse(`http://${host}`)?.hostname ?? host).replace(/^\[|\]$|\.$/g, '').toLowerCase()
  const family = isIP(name)
  if (family !== 0) {
    const isIn = (list: BlockList) => list.check(name, family === 6 ? 'ipv6' : 'ipv4')
    if (isIn(loopback)) return 'loopback'
    if (isIn(unspecified)) return 'machine'
    return isIn(inside) ? 'network' : 'public'
  }
  if (name === 'localhost') return 'loopback'
  // What Docker and Podman call the machine that their containers run on.
  if (/\.localhost$|^localhost\.localdomain$|^(?:host|gateway)\.(?:docker|containers)\.internal$/.test(name))
    return 'machine'
  return /^[^.]*$|\.(?:local|internal|lan|home\.arpa)$/.test(name) ? 'network' : 'public'
}

/** Of an address in which * stands for anything. Without a dot the host of a scheme that apps register is a name of the app's own. */
export function isPublicAddress(address: string): boolean {
  const url = URL.parse(address.trim().replaceAll('*', 'x'))
  if (!url) return false
  const reach = reachOf(url.hostname)
  return reach === 'public' || (reach === 'network' && !/^https?:$/.test(url.protocol) && !/[.:]/.test(url.hostname))
}
