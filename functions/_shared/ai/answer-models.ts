/** The models that the caller may use, in OpenAI's shape. */
import { AppError } from '../errors.ts'
import { identify } from './identify.ts'
import { ledgerCaller } from './ledger-caller.ts'
import { tellOfSignature } from './read-signature.ts'
import { refusal } from './refusal.ts'
import type { AiWorld } from './world.ts'

export async function answerModels(headers: Headers, id: string | undefined, world: AiWorld): Promise<Response> {
  const caller = ledgerCaller(await identify(headers, world), headers, new Uint8Array())
  const list = await world.listModels(caller)
  if (!list.allowed && list.code === 'invalid_signature') tellOfSignature(caller, world)
  if (!list.allowed) throw refusal(list)
  const data = list.models.map((model) => ({ ...model, object: 'model' }))
  if (id === undefined) return Response.json({ object: 'list', data })
  const model = data.find((candidate) => candidate.id === id)
  if (!model)
    throw new AppError('model_not_found', { message: `The model '${id}' does not exist or is not in your plan.` })
  return Response.json(model)
}
